package cachemount

import (
	"bytes"
	"fmt"
	"io"
	"runtime"
	"sync"

	"github.com/whittle-build/whittle/internal/digest"
	"github.com/whittle-build/whittle/internal/image/manifest"
	"github.com/whittle-build/whittle/internal/layer"
)

// piece is a part of a file, or all of it.
type piece struct {
	sum  digest.Digest
	size int
}

// pack is a blob of pieces.
type pack struct {
	blob   manifest.Descriptor
	pieces []piece
}

func (p *pack) raw() (n int64) {
	for _, x := range p.pieces {
		n += int64(x.size)
	}
	return n
}

// place is where a piece is.
type place struct{ pack, number int }

// packer collects pieces and writes them into a folder as packs. What is full
// is compressed and written beside the reading of more. Its methods are called
// by one goroutine.
type packer struct {
	to     *folder
	packs  []*pack
	places map[digest.Digest]place
	buf    []byte
	filled *pack // what buf is to be

	slots chan struct{}
	wg    sync.WaitGroup
	mu    sync.Mutex
	err   error
}

func newPacker(to *folder) *packer {
	return &packer{to: to, places: map[digest.Digest]place{}, slots: make(chan struct{}, runtime.GOMAXPROCS(0))}
}

// keep makes known a pack that is in the folder already.
func (p *packer) keep(old *pack) {
	for i, x := range old.pieces {
		if _, ok := p.places[x.sum]; !ok {
			p.places[x.sum] = place{len(p.packs), i}
		}
	}
	p.packs = append(p.packs, old)
}

// add takes a piece, unless it is there already.
func (p *packer) add(b []byte) (digest.Digest, error) {
	sum := digest.Of(b)
	if _, ok := p.places[sum]; ok {
		return sum, nil
	}
	return sum, p.put(sum, b)
}

func (p *packer) put(sum digest.Digest, b []byte) error {
	if p.filled == nil {
		p.filled = &pack{}
		p.packs = append(p.packs, p.filled)
		p.buf = make([]byte, 0, fullPack+whole)
	}
	p.places[sum] = place{len(p.packs) - 1, len(p.filled.pieces)}
	p.filled.pieces = append(p.filled.pieces, piece{sum, len(b)})
	p.buf = append(p.buf, b...)
	if len(p.buf) >= fullPack {
		return p.flush()
	}
	return nil
}

// flush begins to write what has been collected.
func (p *packer) flush() error {
	if p.filled == nil {
		return p.failed()
	}
	to, raw := p.filled, p.buf
	p.filled, p.buf = nil, nil
	p.slots <- struct{}{}
	p.wg.Go(func() {
		defer func() { <-p.slots }()
		blob, err := p.to.compress(packType, bytes.NewReader(raw))
		if err != nil {
			p.mu.Lock()
			p.err = err
			p.mu.Unlock()
			return
		}
		to.blob = blob
	})
	return p.failed()
}

func (p *packer) failed() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.err
}

// wait ends when everything has been written.
func (p *packer) wait() error {
	err := p.flush()
	p.wg.Wait()
	if err == nil {
		err = p.failed()
	}
	return err
}

// used counts, for each pack, the bytes of the pieces that files need.
func (p *packer) used(need map[digest.Digest]bool) []int64 {
	out := make([]int64, len(p.packs))
	for sum := range need {
		at := p.places[sum]
		out[at.pack] += int64(p.packs[at.pack].pieces[at.number].size)
	}
	return out
}

// tidy writes anew what is needed of packs that are mostly dead, and of small
// ones when there are many. Then no more is added.
func (p *packer) tidy(need map[digest.Digest]bool) error {
	if err := p.wait(); err != nil {
		return err
	}
	used := p.used(need)
	small := 0
	for i, n := range used {
		if n > 0 && p.packs[i].raw() < fullPack/4 {
			small++
		}
	}
	var anew []*pack
	for i, old := range p.packs {
		raw := old.raw()
		if used[i] > 0 && (used[i] < raw/2 || small > fewSmall && raw < fullPack/4) {
			anew = append(anew, old)
		}
	}
	for _, old := range anew {
		if err := p.rewrite(old, need); err != nil {
			return err
		}
	}
	return p.wait()
}

func (p *packer) rewrite(old *pack, need map[digest.Digest]bool) error {
	raw, err := p.to.unpack(old)
	if err != nil {
		return err
	}
	for i, x := range old.pieces {
		b := raw[:x.size]
		raw = raw[x.size:]
		if at := p.places[x.sum]; need[x.sum] && p.packs[at.pack] == old && at.number == i {
			if err := p.put(x.sum, b); err != nil {
				return err
			}
		}
	}
	return nil
}

// result is the packs that are needed, and where their pieces are among all of
// theirs.
func (p *packer) result(need map[digest.Digest]bool) (list []*pack, number map[digest.Digest]int) {
	used := p.used(need)
	first := make([]int, len(p.packs))
	n := 0
	for i, x := range p.packs {
		first[i] = n
		if used[i] > 0 {
			list = append(list, x)
			n += len(x.pieces)
		}
	}
	number = make(map[digest.Digest]int, len(need))
	for sum := range need {
		at := p.places[sum]
		number[sum] = first[at.pack] + at.number
	}
	return list, number
}

// unpack reads a pack and checks all of it.
func (f *folder) unpack(p *pack) ([]byte, error) {
	want := p.raw()
	if want > maxPack {
		return nil, fmt.Errorf("pack %s: %d bytes, more than %d", p.blob.Digest.Short(), want, maxPack)
	}
	b, err := f.blob(p.blob, 2*maxPack)
	if err != nil {
		return nil, err
	}
	plain, _, err := layer.Decompress(bytes.NewReader(b))
	if err != nil {
		return nil, fmt.Errorf("pack %s: %w", p.blob.Digest.Short(), err)
	}
	defer plain.Close()
	raw := make([]byte, want)
	if _, err := io.ReadFull(plain, raw); err != nil {
		return nil, fmt.Errorf("pack %s: %w", p.blob.Digest.Short(), err)
	}
	if n, err := plain.Read(make([]byte, 1)); n != 0 || err != io.EOF {
		return nil, fmt.Errorf("pack %s: more in it than its tree says", p.blob.Digest.Short())
	}
	rest := raw
	for _, x := range p.pieces {
		if digest.Of(rest[:x.size]) != x.sum {
			return nil, fmt.Errorf("pack %s: piece %s has another content", p.blob.Digest.Short(), x.sum.Short())
		}
		rest = rest[x.size:]
	}
	return raw, nil
}
