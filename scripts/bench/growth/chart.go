package main

import (
	"bytes"
	"encoding/xml"
	"fmt"
	"math"
	"time"
)

// Sizes of the chart, in pixels.
const (
	width, height        = 420, 190
	left, right          = 62, 14
	top, bottom, columns = 44, 26, 2
)

const style = `<style>
text { font: 11px sans-serif; fill: #1f2328 } .title { font: bold 11px sans-serif } .line { stroke: #0969da; stroke-width: 2; fill: none }
.dot { fill: #0969da } .axis { stroke: #8c959f }
@media (prefers-color-scheme: dark) { text { fill: #e6edf3 } .line { stroke: #4493f8 } .dot { fill: #4493f8 } }
</style>
`

// chart draws the curves: the size as its logarithm, so that a logarithmic cost is a
// straight line; the cost from zero on.
func chart(curves []curve, all [][]point) []byte {
	rows := (len(curves) + columns - 1) / columns
	var svg bytes.Buffer
	fmt.Fprintf(&svg, "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %d %d\">\n%s", columns*width, rows*height, style)
	for i, c := range curves {
		draw(&svg, c, all[i], i%columns*width, i/columns*height)
	}
	svg.WriteString("</svg>\n")
	return svg.Bytes()
}

func draw(svg *bytes.Buffer, c curve, points []point, x, y int) {
	most := time.Nanosecond
	for _, p := range points {
		most = max(most, p.cost)
	}
	low, high := math.Log(float64(points[0].size)), math.Log(float64(points[len(points)-1].size))
	at := func(p point) (float64, float64) {
		along := (math.Log(float64(p.size)) - low) / max(high-low, 1e-9)
		return float64(x+left) + along*float64(width-left-right), float64(y+height-bottom) - float64(p.cost)/float64(most)*float64(height-top-bottom)
	}
	say(svg, "title", "start", x+6, y+16, c.name)
	say(svg, "", "start", x+6, y+30, c.title)
	fmt.Fprintf(svg, "<path class=\"axis\" fill=\"none\" d=\"M%d %dV%dH%d\"/>\n<path class=\"line\" d=\"", x+left, y+top, y+height-bottom, x+width-right)
	for i, p := range points {
		px, py := at(p)
		fmt.Fprintf(svg, "%c%.1f %.1f", "ML"[min(i, 1)], px, py)
	}
	svg.WriteString("\"/>\n")
	for _, p := range points {
		px, py := at(p)
		fmt.Fprintf(svg, "<circle class=\"dot\" cx=\"%.1f\" cy=\"%.1f\" r=\"3\"/>\n", px, py)
		say(svg, "", "middle", int(px), y+height-bottom+14, fmt.Sprint(p.size))
		say(svg, "", "middle", int(px), int(py)-6, short(p.cost))
	}
}

func say(svg *bytes.Buffer, class, anchor string, x, y int, text string) {
	fmt.Fprintf(svg, "<text class=\"%s\" text-anchor=\"%s\" x=\"%d\" y=\"%d\">", class, anchor, x, y)
	_ = xml.EscapeText(svg, []byte(text)) // into memory
	svg.WriteString("</text>\n")
}
