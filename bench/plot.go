package main

import (
	"bytes"
	"fmt"
	"math"
	"strings"
	"time"
)

// colours are those of the builders, in the order of builderNames; the floor is
// a line.
var colours = [...]string{"#0b6e4f", "#3fa34d", "#a1cf6b", "#1d3557", "#457b9d", "#8ab6d6", "#c08552"}

// plot draws the times of all rows on one logarithmic axis.
func plot(results []result) []byte {
	const (
		left, right, barHeight, gap = 150, 760, 9, 10
		least, most                 = time.Millisecond, 200 * time.Second
	)
	x := func(d time.Duration) float64 {
		share := math.Log(float64(max(d, least))/float64(least)) / math.Log(float64(most)/float64(least))
		return left + min(share, 1)*(right-left)
	}
	var body bytes.Buffer
	y := 40
	for _, r := range results {
		top := y
		for i, name := range builderNames {
			if f := r.figure(name); f != nil && f.Median > 0 {
				fmt.Fprintf(&body, `<rect x="%d" y="%d" width="%.1f" height="%d" fill="%s"><title>%s, %s: %s</title></rect>`+"\n",
					left, y, max(x(f.Median)-left, 1), barHeight-1, colours[i], r.id, name, show(f.Median))
				y += barHeight
			}
		}
		if y == top {
			continue
		}
		fmt.Fprintf(&body, `<text x="%d" y="%d" text-anchor="end">%s</text>`+"\n", left-8, (top+y)/2+4, r.id)
		if d := r.floor.Median; d > 0 {
			fmt.Fprintf(&body, `<line x1="%.1f" x2="%.1f" y1="%d" y2="%d" stroke="#d00" stroke-width="2"><title>%s, floor: %s</title></line>`+"\n",
				x(d), x(d), top-2, y+1, r.id, show(d))
		}
		y += gap
	}
	var out bytes.Buffer
	fmt.Fprintf(&out, `<svg xmlns="http://www.w3.org/2000/svg" width="800" height="%d" font-family="sans-serif" font-size="12">`+"\n", y+20)
	fmt.Fprintln(&out, `<rect width="100%" height="100%" fill="#fff"/>`)
	for d := least; d <= most; d *= 10 {
		fmt.Fprintf(&out, `<line x1="%.1f" x2="%.1f" y1="34" y2="%d" stroke="#ddd"/><text x="%.1f" y="%d" text-anchor="middle" fill="#666">%s</text>`+"\n",
			x(d), x(d), y, x(d), y+14, strings.Replace(show(d), ".00", "", 1))
	}
	for i, name := range append(builderNames[:], "floor") {
		colour := "#d00"
		if i < len(colours) {
			colour = colours[i]
		}
		fmt.Fprintf(&out, `<rect x="%d" y="8" width="10" height="10" fill="%s"/><text x="%d" y="17" font-size="10">%s</text>`+"\n", 20+i*97, colour, 33+i*97, name)
	}
	out.Write(body.Bytes())
	fmt.Fprintln(&out, "</svg>")
	return out.Bytes()
}

// growth draws the times of rows about growth by their sizes, both logarithmic:
// what is linear has the slope of the grey lines.
func growth(results []result) []byte {
	const (
		left, top, side, gap = 60, 30, 200, 50
		least, most          = time.Millisecond, 200 * time.Second
	)
	var body bytes.Buffer
	n := 0
	for _, r := range results {
		if r.sizes == nil {
			continue
		}
		x0 := left + n*(side+gap)
		n++
		x := func(size int) float64 { // from 1 % on
			return float64(x0) + side*(2+math.Log10(float64(size)/float64(r.sizes[len(r.sizes)-1])))/2
		}
		y := func(d time.Duration) float64 {
			return top + side*(1-math.Log(float64(d)/float64(least))/math.Log(float64(most)/float64(least)))
		}
		fmt.Fprintf(&body, `<rect x="%d" y="%d" width="%d" height="%d" fill="none" stroke="#ccc"/><text x="%d" y="%d">%s</text>`+"\n",
			x0, top, side, side, x0, top-8, r.id)
		for d := least; d <= most; d *= 10 {
			fmt.Fprintf(&body, `<text x="%d" y="%.1f" text-anchor="end" fill="#666" font-size="9">%s</text>`+"\n", x0-3, y(d)+3, strings.Replace(show(d), ".00", "", 1))
			if d*100 <= most {
				fmt.Fprintf(&body, `<line x1="%d" y1="%.1f" x2="%d" y2="%.1f" stroke="#eee"/>`+"\n", x0, y(d), x0+side, y(d*100))
			}
		}
		for i, name := range builderNames {
			f := r.figure(name)
			if f == nil || f.Median == 0 {
				continue
			}
			var points []string
			for k, d := range f.Times {
				points = append(points, fmt.Sprintf("%.1f,%.1f", x(f.Sizes[k]), y(d)))
			}
			fmt.Fprintf(&body, `<polyline points="%s" fill="none" stroke="%s" stroke-width="2"><title>%s, %s: n^%.2f</title></polyline>`+"\n",
				strings.Join(points, " "), colours[i], r.id, name, f.Exponent)
		}
		for i, share := range []string{"1 %", "10 %", "100 %"} {
			fmt.Fprintf(&body, `<text x="%d" y="%d" text-anchor="middle" fill="#666" font-size="9">%s</text>`+"\n", x0+i*side/2, top+side+12, share)
		}
	}
	var out bytes.Buffer
	fmt.Fprintf(&out, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" font-family="sans-serif" font-size="12">`+"\n", left+n*(side+gap), top+side+30)
	fmt.Fprintln(&out, `<rect width="100%" height="100%" fill="#fff"/>`)
	out.Write(body.Bytes())
	fmt.Fprintln(&out, "</svg>")
	return out.Bytes()
}
