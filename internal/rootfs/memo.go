package rootfs

import (
	"errors"
	"sync"
)

// A memo keeps what was made, by name, until it is drained. Of several that
// ask for one name at once one makes it and the others wait. Errors are not
// kept: a disk that was full or a build that was stopped says nothing about
// the next time.
type memo[T any] struct {
	mu sync.Mutex
	m  map[string]*cell[T]
}

type cell[T any] struct {
	once sync.Once
	val  T
	err  error
	done bool // val is there; guarded by the memo's mu
}

func (m *memo[T]) get(name string, make func() (T, error)) (T, error) {
	for {
		c := m.cell(name)
		mine := false
		c.once.Do(func() {
			mine = true
			c.val, c.err = make()
		})
		if c.err == nil {
			if mine {
				m.mu.Lock()
				c.done = true
				m.mu.Unlock()
			}
			return c.val, nil
		}
		m.forget(name, c)
		if mine {
			return c.val, c.err
		}
		// It was somebody else's error, perhaps that of a build which ended.
	}
}

// begun says whether something of that name is there, or is being made.
func (m *memo[T]) begun(name string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.m[name] != nil
}

// made is what is kept under name, if it has been made; else the zero value.
func (m *memo[T]) made(name string) (val T) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if c := m.m[name]; c != nil && c.done {
		val = c.val
	}
	return val
}

func (m *memo[T]) cell(name string) *cell[T] {
	m.mu.Lock()
	defer m.mu.Unlock()
	c := m.m[name]
	if c == nil {
		c = new(cell[T])
		if m.m == nil {
			m.m = map[string]*cell[T]{}
		}
		m.m[name] = c
	}
	return c
}

func (m *memo[T]) forget(name string, c *cell[T]) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.m[name] == c {
		delete(m.m, name)
	}
}

// drain forgets everything and calls end for each value.
func (m *memo[T]) drain(end func(T) error) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	var errs []error
	for _, c := range m.m {
		if c.err == nil {
			errs = append(errs, end(c.val))
		}
	}
	m.m = nil
	return errors.Join(errs...)
}

// drop forgets what is kept under name. Who has it keeps it.
func (m *memo[T]) drop(name string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.m, name)
}
