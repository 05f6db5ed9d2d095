package sim

import (
	"math"
	"math/rand/v2"
	"time"
)

// Times are the timers of both sides. Zero fields are the product's defaults.
type Times struct {
	KeepaliveTime, KeepaliveTimeout time.Duration
	ReconnectBase, ReconnectCap     time.Duration
	StallAfter                      time.Duration
	DialTimeout, WelcomeTimeout     time.Duration
	ScanEvery                       time.Duration
	Tick                            time.Duration // of the lost watch
	Beat                            time.Duration // of a master, if there are several
	SafetyPoll                      time.Duration
}

// Profile is a way of life: how much work there is, and how much trouble.
// Rates are per slave and virtual day; lengths are log-uniform between two
// bounds.
type Profile struct {
	Name      string
	Times     Times
	Latency   time.Duration // of the network, one way
	LostAfter time.Duration // the farm's
	Slots     int
	// Masters of the one store; 0: one. With several, hints between them are lost at
	// times: they need a safety poll.
	Masters   int
	LostHints float64 // part of the hints between masters

	Builds  float64 // submitted
	Cancels float64 // part of the builds that somebody cancels
	Meddles float64 // part of the looks at the farm that drain, reset or bury a slave
	Lasts   [2]time.Duration
	Steps   int     // of a build, at most
	Silent  float64 // part of the steps that write nothing
	Bursts  int     // of output in a step, at most
	Lines   int     // in a burst, at most
	Width   int     // bytes of a line

	SpoolQuota int64 // of a slave, bytes; 0: the product's
	JournalMax int64 // of a slave, bytes; 0: the product's
	Rate       int64 // of each cable and direction, bytes a second; 0: no limit

	Faults map[Fault]float64
	Outage [2]time.Duration // of a cable
	Down   [2]time.Duration // of an agent or a master; how long a disk is full
	// Drift of each wall clock is at most this, seconds a second either way.
	Drift float64
	Store storeTrouble
}

// noPoll keeps masters from looking without a hint, so that a hint that is
// lost shows: what waits for it never ends.
const noPoll = 10 * 365 * 24 * time.Hour

// Fault is a kind of trouble.
type Fault string

// The faults.
const (
	Drop          Fault = "drop"           // connections torn down, nothing more
	Cut           Fault = "cut"            // torn down, and dials refused for a while
	Hang          Fault = "hang"           // silence both ways; what was sent arrives afterwards
	HangUp        Fault = "hang_up"        // silence from slave to master
	HangDown      Fault = "hang_down"      // silence from master to slave
	Swallow       Fault = "swallow"        // open connections are dead and nobody is told
	SwallowUp     Fault = "swallow_up"     // the same from slave to master only
	SwallowDown   Fault = "swallow_down"   // the same from master to slave only
	AgentStop     Fault = "agent_stop"     // the agent is stopped and started later
	AgentKill     Fault = "agent_kill"     // the agent is killed
	RunnerKill    Fault = "runner_kill"    // one runner is killed
	Reboot        Fault = "reboot"         // agent and runners are killed, boot id changes
	MasterStop    Fault = "master_stop"    // per master, not per slave
	MasterKill    Fault = "master_kill"    // per master, not per slave
	BothKill      Fault = "both_kill"      // master and one agent at one moment
	DiskFull      Fault = "disk_full"      // of a slave: its steps wait, it takes no new attempt
	StoreFull     Fault = "store_full"     // per master: commits are refused
	ClockStep     Fault = "clock_step"     // of a slave's wall clock, to anything within years
	MasterClock   Fault = "master_clock"   // per master: the same
	Restore       Fault = "restore"        // a slave's machine is put back to what it was earlier
	Upgrade       Fault = "upgrade"        // the agent is stopped, and one with other features started later
	MasterUpgrade Fault = "master_upgrade" // per master: the same
	StoreRestore  Fault = "store_restore"  // per master: its store is put back to what it was earlier
	StoreCut      Fault = "store_cut"      // per master: it does not reach the store, but its slaves reach it
	CommitFailed  Fault = "commit_failed"  // counted, not scheduled: the store was busy
	CommitDoubt   Fault = "commit_doubt"   // counted, not scheduled: outcome unknown
)

// Sparse is a quiet farm over years: about one cut and twenty updates a day
// and slave. Timers are stretched, so that idle time costs nothing.
func Sparse() Profile {
	return Profile{
		Name: "sparse",
		Times: Times{
			KeepaliveTime: 12 * time.Hour, KeepaliveTimeout: time.Hour,
			ReconnectBase: time.Minute, ReconnectCap: 2 * time.Hour,
			StallAfter: 10 * time.Minute, DialTimeout: time.Minute, WelcomeTimeout: time.Minute,
			ScanEvery: 12 * time.Hour, Tick: time.Hour, SafetyPoll: noPoll,
		},
		Latency: 40 * time.Millisecond, LostAfter: 36 * time.Hour, Slots: 2,
		Builds: 2.1, Cancels: 0.03, Meddles: 0.1, Lasts: [2]time.Duration{time.Minute, 20 * time.Hour},
		Steps: 5, Silent: 0.7, Bursts: 1, Lines: 20, Width: 60,
		Faults: map[Fault]float64{
			Drop: 0.3, Cut: 0.3, Hang: 0.1, HangUp: 0.03, HangDown: 0.03, Swallow: 0.03, SwallowUp: 0.02, SwallowDown: 0.02,
			AgentStop: 0.05, AgentKill: 0.05, RunnerKill: 0.02, Reboot: 0.01,
			MasterStop: 0.05, MasterKill: 0.05, BothKill: 0.01,
			DiskFull: 0.02, StoreFull: 0.02, ClockStep: 0.02, MasterClock: 0.02, Restore: 0.01,
			Upgrade: 0.01, MasterUpgrade: 0.02, StoreRestore: 0.01,
		},
		Outage: [2]time.Duration{5 * time.Second, 72 * time.Hour},
		Down:   [2]time.Duration{time.Second, 12 * time.Hour},
		Drift:  1e-4,
		Store:  storeTrouble{slow: 20 * time.Millisecond, failed: 0.002, unknown: 0.002},
	}
}

// Steady has no faults but those that a test makes.
func Steady() Profile {
	return Profile{
		Name: "steady", Times: Times{SafetyPoll: noPoll}, Latency: 5 * time.Millisecond, LostAfter: 30 * time.Minute, Slots: 1,
		Lasts:  [2]time.Duration{time.Second, time.Minute},
		Outage: [2]time.Duration{time.Second, time.Minute},
		Down:   [2]time.Duration{time.Second, 5 * time.Second},
	}
}

// Dense is a bad week: the product's own timers and a fault every twenty minutes.
func Dense() Profile {
	return Profile{
		Name: "dense", Times: Times{SafetyPoll: noPoll}, Latency: 25 * time.Millisecond, LostAfter: 10 * time.Minute, Slots: 2,
		Builds: 60, Cancels: 0.08, Meddles: 0.8, Lasts: [2]time.Duration{2 * time.Second, 30 * time.Minute},
		Steps: 4, Silent: 0.2, Bursts: 6, Lines: 60, Width: 60,
		Faults: map[Fault]float64{
			Drop: 24, Cut: 8, Hang: 8, HangUp: 4, HangDown: 4, Swallow: 4, SwallowUp: 3, SwallowDown: 3,
			AgentStop: 4, AgentKill: 8, RunnerKill: 4, Reboot: 1.5,
			MasterStop: 4, MasterKill: 8, BothKill: 3,
			DiskFull: 2, StoreFull: 4, ClockStep: 2, MasterClock: 3, Restore: 4,
			Upgrade: 1, MasterUpgrade: 2, StoreRestore: 2,
		},
		Outage: [2]time.Duration{time.Second, 20 * time.Minute},
		Down:   [2]time.Duration{500 * time.Millisecond, 10 * time.Minute},
		Drift:  1e-3,
		Store:  storeTrouble{slow: 20 * time.Millisecond, failed: 0.01, unknown: 0.01},
	}
}

// Many is a bad week of three masters of one store. Their beats are farther apart
// than in the product: each is a commit.
func Many() Profile {
	p := Dense()
	p.Name, p.Masters, p.LostHints = "many", 3, 0.05
	p.severalMasters()
	p.Faults[StoreCut] = 6
	return p
}

// severalMasters sets what masters that share a store need.
func (p *Profile) severalMasters() { p.Times.Beat, p.Times.SafetyPoll = time.Minute, time.Minute }

// Race is Dense with less of everything, for the race detector.
func Race() Profile {
	p := Dense()
	p.Name, p.Builds = "race", 24
	for kind := range p.Faults {
		p.Faults[kind] *= 0.6
	}
	return p
}

// Wild draws a way of life of its own for each seed: slow or fast links, much
// or little patience, full disks, one kind of fault far more often than the
// others. It finds what a well-mixed diet hides.
func Wild(seed uint64) (p Profile, slaves int) {
	rng := rand.New(rand.NewPCG(seed, 0x77696c64))
	p = Dense()
	p.Name = "wild"
	p.Latency = between(rng, time.Millisecond, 400*time.Millisecond)
	p.LostAfter = between(rng, 20*time.Second, time.Hour)
	p.Slots = 1 + rng.IntN(4)
	p.Builds = 20 + 150*rng.Float64()
	p.Cancels = 0.3 * rng.Float64()
	p.Lasts[1] = between(rng, 10*time.Second, 2*time.Hour)
	p.Silent = rng.Float64()
	p.Outage[1] = between(rng, 10*time.Second, 90*time.Minute)
	p.Down[1] = between(rng, time.Second, 30*time.Minute)
	p.Store = storeTrouble{slow: between(rng, time.Millisecond, time.Second), failed: 0.1 * rng.Float64(), unknown: 0.1 * rng.Float64()}
	for _, kind := range faultOrder {
		p.Faults[kind] *= math.Pow(rng.Float64()*1.6, 3)
	}
	p.Faults[faultOrder[rng.IntN(len(faultOrder))]] += 60
	if rng.IntN(3) == 0 {
		p.Rate = int64(2_000 + rng.IntN(100_000))
	}
	if rng.IntN(3) == 0 {
		p.SpoolQuota = int64(32<<10 + rng.IntN(256<<10))
	}
	if rng.IntN(3) == 0 {
		p.JournalMax = int64(8<<10 + rng.IntN(64<<10))
	}
	// Of a generator of its own: what was found with one master is found again.
	if several := rand.New(rand.NewPCG(seed, 0x6d616e79)); several.IntN(4) == 0 {
		p.Masters, p.LostHints = 2+several.IntN(2), 0.2*several.Float64()
		p.severalMasters()
		p.Faults[StoreCut] = 30 * several.Float64()
	}
	return p, 1 + rng.IntN(6)
}
