// SPDX-License-Identifier: Apache-2.0

// Command gomap is a typical process cache of a Go program: pointers in a map with a mutex, in process. It is a peer
// for bench/live_lookup.py and measures the cost of a look-up and of a hop to the parent.
//
//	gomap ENTRIES LOOKUPS RUNS DEPTH
//
// It prints one JSON object: for each of RUNS runs, ns a look-up of LOOKUPS random pids, and ns a hop of walks over DEPTH
// ancestors from random pids. Each is the median of the chunks of 1,000 pids, which other work on the core hardly disturbs.
package main

import (
	"encoding/json"
	"math/rand"
	"os"
	"sort"
	"strconv"
	"sync"
	"time"
)

// Entry has the usual fields of an entry, and therefore a realistic size.
type Entry struct {
	Pid, PPid, Tid           uint32
	UID, GID, EUID, EGID     uint32
	Start, Fork, Exec, Exit  time.Time
	Comm, Path, TTY, Cgroup  string
	Argv, Envs               []string
	CapEffective, CapAllowed uint64
	Inode                    uint64
	MountID                  uint32
	Ancestor                 *Entry
}

// Cache is the map and its lock.
type Cache struct {
	mutex   sync.Mutex
	entries map[uint32]*Entry
}

// Resolve returns the entry of a pid, nil if there is none.
func (c *Cache) Resolve(pid uint32) *Entry {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	return c.entries[pid]
}

// Ancestors walks up to depth ancestors under the lock and returns how many there were.
func (c *Cache) Ancestors(pid uint32, depth int) (hops int, sum uint64) {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	entry := c.entries[pid]
	for entry != nil && entry.Ancestor != nil && hops < depth {
		entry = entry.Ancestor
		sum += uint64(entry.Pid)
		hops++
	}
	return hops, sum
}

// chunk is the number of pids that are timed at once.
const chunk = 1000

func median(values []float64) float64 {
	sort.Float64s(values)
	return values[len(values)/2]
}

func argument(n int) int {
	value, err := strconv.Atoi(os.Args[n])
	if err != nil {
		panic(err)
	}
	return value
}

func main() {
	entries, lookups, runs, depth := argument(1), argument(2), argument(3), argument(4)
	cache := Cache{entries: make(map[uint32]*Entry)}
	random := rand.New(rand.NewSource(1))
	for n := 0; n < entries; n++ {
		pid := uint32(n + 2)
		entry := &Entry{Pid: pid, Tid: pid, Comm: "sleeper", Path: "/usr/lib/things/program-" + strconv.Itoa(n%1000),
			Argv: []string{"sleeper", strconv.Itoa(n)}, Start: time.Unix(int64(n), 0)}
		if n > 0 {
			parent := n - 1
			if n%(depth+1) == 0 {
				parent = random.Intn(n)
			}
			entry.Ancestor = cache.entries[uint32(parent+2)]
			entry.PPid = entry.Ancestor.Pid
		}
		cache.entries[pid] = entry
	}
	pids := make([]uint32, lookups)
	for n := range pids {
		pids[n] = uint32(random.Intn(entries) + 2)
	}
	var found struct {
		Lookup []float64 `json:"lookup_ns"`
		Hop    []float64 `json:"hop_ns"`
	}
	var sum uint64
	for run := 0; run <= runs; run++ {
		var lookup, hop []float64
		for at := 0; at+chunk <= lookups; at += chunk {
			begin := time.Now()
			for _, pid := range pids[at : at+chunk] {
				entry := cache.Resolve(pid)
				sum += uint64(entry.PPid) + uint64(len(entry.Comm))
			}
			lookup = append(lookup, float64(time.Since(begin).Nanoseconds())/chunk)
		}
		for at := 0; at+chunk <= lookups; at += chunk {
			begin := time.Now()
			hops := 0
			for _, pid := range pids[at : at+chunk] {
				n, s := cache.Ancestors(pid, depth)
				hops += n
				sum += s
			}
			hop = append(hop, float64(time.Since(begin).Nanoseconds())/float64(max(hops, 1)))
		}
		if run > 0 { // the first run is a warm-up
			found.Lookup = append(found.Lookup, median(lookup))
			found.Hop = append(found.Hop, median(hop))
		}
	}
	if sum == 0 { // keeps the compiler from dropping the loops
		panic("nothing was read")
	}
	if err := json.NewEncoder(os.Stdout).Encode(found); err != nil {
		panic(err)
	}
}
