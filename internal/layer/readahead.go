package layer

import "io"

// readAhead reads r in a goroutine of its own, so that decompressing runs
// beside what is done with the result. close waits for a read in progress.
type readAhead struct {
	full chan chunk
	free chan []byte
	quit chan struct{}
	done chan struct{}
	cur  chunk
	rest []byte
}

type chunk struct {
	b   []byte
	err error
}

func newReadAhead(r io.Reader) *readAhead {
	const size, count = 512 << 10, 4
	a := &readAhead{
		full: make(chan chunk, count), free: make(chan []byte, count),
		quit: make(chan struct{}), done: make(chan struct{}),
	}
	for range count {
		a.free <- make([]byte, size)
	}
	go a.run(r)
	return a
}

func (a *readAhead) run(r io.Reader) {
	defer close(a.done)
	for {
		var b []byte
		select {
		case b = <-a.free:
		case <-a.quit:
			return
		}
		n, err := 0, error(nil)
		for n < len(b) && err == nil {
			var k int
			k, err = r.Read(b[n:])
			n += k
		}
		a.full <- chunk{b[:n], err}
		if err != nil {
			return
		}
	}
}

// Read implements io.Reader.
func (a *readAhead) Read(p []byte) (int, error) {
	for len(a.rest) == 0 {
		if a.cur.err != nil {
			return 0, a.cur.err
		}
		if a.cur.b != nil {
			a.free <- a.cur.b[:cap(a.cur.b)]
		}
		a.cur = <-a.full
		a.rest = a.cur.b
	}
	n := copy(p, a.rest)
	a.rest = a.rest[n:]
	return n, nil
}

func (a *readAhead) close() {
	close(a.quit)
	<-a.done
}
