package main

import (
	"bytes"
	"encoding/xml"
	"fmt"
	"slices"
)

// Sizes of the chart, in pixels.
const (
	chartWidth = 860
	panelWidth = chartWidth / 2
	barHeight  = 16
	barStep    = 22
	labelWidth = 84
	valueWidth = 70
)

// style suits light and dark pages: GitHub shows the picture on either.
const style = `<style>
text { font: 12px sans-serif; fill: #1f2328 } .title { font-weight: bold } .own { fill: #0969da } .other { fill: #8c959f }
.line { stroke: #0969da; stroke-width: 2; fill: none } .axis { stroke: #8c959f; fill: none }
@media (prefers-color-scheme: dark) { text { fill: #e6edf3 } .own { fill: #4493f8 } .line { stroke: #4493f8 } .other { fill: #656c76 } }
</style>
`

// chart draws the headlines as bars, a panel each. A bar that would make the others
// invisible is cut off; its figure stands beside it.
func (o *outcome) chart() []byte {
	names := slices.DeleteFunc(slices.Clone(o.among), func(name string) bool { return name == directName })
	panelHeight := 34 + barStep*len(names)
	rows := (len(headlines) + 1) / 2
	var svg bytes.Buffer
	fmt.Fprintf(&svg, "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %d %d\">\n%s", chartWidth, rows*panelHeight, style)
	for i, h := range headlines {
		x, y := i%2*panelWidth, i/2*panelHeight
		o.panel(&svg, h, names, x, y)
	}
	svg.WriteString("</svg>\n")
	return svg.Bytes()
}

func (o *outcome) panel(svg *bytes.Buffer, h headline, names []string, x, y int) {
	write(svg, "title", x+4, y+18, h.head)
	medians := make([]float64, len(names))
	own := 0.0
	for i, name := range names {
		medians[i], _, _ = spread(o.of(name, h.work, h.pick))
		if name == sluiceName {
			own = medians[i]
		}
	}
	longest := min(slices.Max(medians), 5*own)
	for i, name := range names {
		top := y + 28 + i*barStep
		write(svg, "", x+4, top+12, name)
		class := "other"
		if name == sluiceName {
			class = "own"
		}
		const room = panelWidth - labelWidth - valueWidth
		length, figure := 0.0, "-"
		if medians[i] > 0 && longest > 0 {
			length, figure = room*min(1, medians[i]/longest), fmt.Sprintf(h.format, medians[i])
			if medians[i] > longest {
				figure = "» " + figure
			}
		}
		fmt.Fprintf(svg, "<rect class=\"%s\" x=\"%d\" y=\"%d\" width=\"%.1f\" height=\"%d\"/>\n", class, x+labelWidth, top, length, barHeight)
		write(svg, "", x+labelWidth+int(length)+5, top+12, figure)
	}
}

// write puts text at a place.
func write(svg *bytes.Buffer, class string, x, y int, text string) {
	fmt.Fprintf(svg, "<text class=\"%s\" x=\"%d\" y=\"%d\">", class, x, y)
	_ = xml.EscapeText(svg, []byte(text)) // into memory
	svg.WriteString("</text>\n")
}
