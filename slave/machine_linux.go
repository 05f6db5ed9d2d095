package slave

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// machineBootID is the kernel's; a new one with each boot.
func machineBootID() string {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "unknown"
	}
	return strings.TrimSpace(string(b))
}

// machineFingerprint tells machines apart even when one is a copy of the
// other's disk: machine id, product id, and hardware addresses, hashed.
func machineFingerprint() string {
	h := sha256.New()
	for _, path := range []string{"/etc/machine-id", "/sys/class/dmi/id/product_uuid"} {
		b, _ := os.ReadFile(path) // not there, or not for us: as good as empty
		h.Write(b)
		h.Write([]byte{0})
	}
	var addrs []string
	interfaces, _ := net.Interfaces()
	for _, i := range interfaces {
		// Addresses of virtual interfaces change from boot to boot.
		if _, err := os.Stat("/sys/class/net/" + i.Name + "/device"); err == nil && len(i.HardwareAddr) > 0 {
			addrs = append(addrs, i.HardwareAddr.String())
		}
	}
	slices.Sort(addrs)
	h.Write([]byte(strings.Join(addrs, ",")))
	return hex.EncodeToString(h.Sum(nil)[:16])
}

// hostFacts are for people.
func hostFacts(hostname string) map[string]string {
	facts := map[string]string{
		"hostname": hostname,
		"os":       runtime.GOOS,
		"arch":     runtime.GOARCH,
		"cores":    strconv.Itoa(runtime.NumCPU()),
	}
	var info syscall.Sysinfo_t
	if err := syscall.Sysinfo(&info); err == nil {
		facts["memory_bytes"] = strconv.FormatUint(uint64(info.Totalram)*uint64(info.Unit), 10) //nolint:unconvert // narrower on 32-bit machines
	}
	return facts
}

// freeBytes is what the agent's user may still write on dir's file system.
func freeBytes(dir string) (int64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return 0, err
	}
	return int64(st.Bavail) * st.Bsize, nil
}

// reserveFile gives path real blocks for size bytes without changing what it
// holds.
func reserveFile(path string, size int64) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	err = unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_KEEP_SIZE, 0, size)
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOSYS) {
		err = nil
	}
	return errors.Join(err, f.Close())
}

// exchangeFiles lets two files change names, at once. ErrUnsupported: the file
// system cannot.
func exchangeFiles(a, b string) error {
	err := unix.Renameat2(unix.AT_FDCWD, a, unix.AT_FDCWD, b, unix.RENAME_EXCHANGE)
	if errors.Is(err, unix.EINVAL) {
		return errors.ErrUnsupported
	}
	if err != nil {
		return fmt.Errorf("exchange %s and %s: %w", a, b, err)
	}
	return nil
}
