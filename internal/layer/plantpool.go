package layer

import (
	"fmt"
	"os"
	"runtime"
	"sync"

	"github.com/whittle-build/whittle/internal/entry"
	"github.com/whittle-build/whittle/internal/fsroot"
)

// A plantPool writes small files in goroutines of its own.
type plantPool struct {
	p       *planter
	root    *fsroot.Root
	jobs    chan plantJob
	workers sync.WaitGroup
	pending sync.WaitGroup

	mu  sync.Mutex
	err error
}

type plantJob struct {
	e       entry.Entry
	content []byte
}

// maxPooled is the largest file that is kept in memory until it is written.
const maxPooled = 128 << 10

func newPlantPool(p *planter, root *fsroot.Root) *plantPool {
	pool := &plantPool{p: p, root: root, jobs: make(chan plantJob, 64)}
	for range runtime.GOMAXPROCS(0) {
		pool.workers.Go(pool.run)
	}
	return pool
}

func (pool *plantPool) run() {
	for j := range pool.jobs {
		err := pool.plant(&j)
		if err != nil {
			pool.fail(fmt.Errorf("layer: %s: %w", j.e.Path, err))
		}
		pool.pending.Done()
	}
}

func (pool *plantPool) plant(j *plantJob) error {
	if pool.failed() != nil {
		return nil
	}
	dir, err := pool.root.Sub(entry.Parent(j.e.Path))
	if err != nil {
		return err
	}
	defer dir.Close()
	return pool.p.plant(dir, j.e.Base(), &j.e, func(f *os.File) error {
		_, err := f.Write(j.content)
		return err
	})
}

func (pool *plantPool) fail(err error) {
	pool.mu.Lock()
	defer pool.mu.Unlock()
	if pool.err == nil {
		pool.err = err
	}
}

func (pool *plantPool) failed() error {
	pool.mu.Lock()
	defer pool.mu.Unlock()
	return pool.err
}

// put leaves a file to the pool. No other file has its name.
func (pool *plantPool) put(e entry.Entry, content []byte) {
	pool.pending.Add(1)
	pool.jobs <- plantJob{e, content}
}

// wait returns when everything put so far is written.
func (pool *plantPool) wait() error {
	pool.pending.Wait()
	return pool.failed()
}

func (pool *plantPool) close() error {
	close(pool.jobs)
	pool.workers.Wait()
	return pool.failed()
}
