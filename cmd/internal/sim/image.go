package sim

import (
	"io/fs"
	"os"
	"path/filepath"
)

// image is what the files of a directory hold, by their paths in it.
type image map[string][]byte

// readImage reads the files of a directory, those of directories in it only if
// deep. The caller has made sure that nobody writes (synctest.Wait).
func readImage(dir string, deep bool) (image, error) {
	img := make(image)
	return img, eachFile(dir, deep, func(path, rel string) error {
		b, err := os.ReadFile(path)
		img[rel] = b
		return err
	})
}

// restore makes dir's files what they were. Empty directories may stay.
func (img image) restore(dir string, deep bool) error {
	err := eachFile(dir, deep, func(path, rel string) error {
		if _, was := img[rel]; was {
			return nil
		}
		return os.Remove(path)
	})
	if err != nil {
		return err
	}
	if deep {
		// What has no files is no attempt of that time, and no step of it.
		if err := removeEmpty(dir); err != nil {
			return err
		}
	}
	for rel, data := range img {
		path := filepath.Join(dir, rel)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(path, data, 0o600); err != nil {
			return err
		}
	}
	return nil
}

func eachFile(dir string, deep bool, do func(path, rel string) error) error {
	return filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && path != dir && !deep:
			return filepath.SkipDir
		case !d.Type().IsRegular():
			return nil
		}
		rel, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		return do(path, rel)
	})
}

// removeEmpty removes the directories below dir that hold no file.
func removeEmpty(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if !e.IsDir() {
			continue
		}
		path := filepath.Join(dir, e.Name())
		if err := removeEmpty(path); err != nil {
			return err
		}
		left, err := os.ReadDir(path)
		if err != nil {
			return err
		}
		if len(left) == 0 {
			if err := os.Remove(path); err != nil {
				return err
			}
		}
	}
	return nil
}
