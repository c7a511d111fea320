package main

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
	gocmp "github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"

	"github.com/sluice-proxy/sluice/control"
)

// references are the pages that are made from the code, by what makes them.
var references = map[string]func(*testing.T) string{
	"cli": cliReference, "config": configPage, "rest": restReference, "events": eventReference,
}

// TestReference holds the pages in docs/reference to the code. SLUICE_UPDATE=1 writes them anew.
func TestReference(t *testing.T) {
	t.Parallel()
	for name, page := range references {
		file := filepath.Join("..", "..", "docs", "reference", name+".md")
		text := page(t)
		if os.Getenv("SLUICE_UPDATE") != "" {
			if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		have, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if diff := gocmp.Diff(string(have), text); diff != "" {
			t.Errorf("%s is not what the code says: make reference (-page +code):\n%s", file, diff)
		}
	}
}

func cliReference(*testing.T) string {
	var page bytes.Buffer
	page.WriteString("# Commands\n\nWhat `--help` says of each. [The command line](../cli.md) is about what holds for all of them.\n")
	root := newRoot(env{ctx: context.Background()})
	walk(root, func(cmd *cobra.Command) {
		fmt.Fprintf(&page, "\n## %s\n\n%s.\n", cmd.CommandPath(), cmd.Short)
		if cmd.Runnable() {
			fmt.Fprintf(&page, "\n    %s\n", cmd.UseLine())
		}
		if cmd.Long != "" {
			fmt.Fprintf(&page, "\n%s\n", cmd.Long)
		}
		flags := cmd.NonInheritedFlags().FlagUsages()
		if flags = strings.TrimRight(flags, "\n"); flags != "" {
			fmt.Fprintf(&page, "\n```\n%s\n```\n", flags)
		}
		if cmd.Example != "" {
			fmt.Fprintf(&page, "\nFor example:\n\n```\n%s\n```\n", dedent(cmd.Example))
		}
	})
	return page.String()
}

// dedent takes away the two spaces that help has before an example.
func dedent(text string) string {
	lines := strings.Split(text, "\n")
	for i, line := range lines {
		lines[i] = strings.TrimPrefix(line, "  ")
	}
	return strings.Join(lines, "\n")
}

// configPage makes a table of the installed file, which [TestConfigReference] holds to
// the code: a key, its default, and the comment before it.
func configPage(t *testing.T) string {
	t.Helper()
	installed, err := os.ReadFile(configReference)
	if err != nil {
		t.Fatal(err)
	}
	var page bytes.Buffer
	page.WriteString("# Configuration\n\nEvery key of `/etc/sluice/config.toml` with its default, as [the installed file](../../scripts/packaging/config.toml) has them.\n" +
		"[Operations](../operations.md) says which of them a reload applies.\n\n## Top level\n")
	var prose, setting []string
	section, examples := "", []string(nil)
	flush := func() {
		if len(setting) > 0 {
			name, value, _ := strings.Cut(strings.Join(setting, " "), " = ")
			fmt.Fprintf(&page, "\n### `%s`\n\nDefault: `%s`\n", section+name, value)
		}
		if len(prose) > 0 && len(setting) > 0 {
			fmt.Fprintf(&page, "\n%s\n", strings.Join(prose, "\n"))
		}
		if len(examples) > 0 {
			fmt.Fprintf(&page, "\n```toml\n%s\n```\n", strings.Join(examples, "\n"))
		}
		prose, setting, examples = nil, nil, nil
	}
	var of []string // the prose before a section
	open := false   // a value goes on
	for line := range strings.Lines(string(installed)) {
		line = strings.TrimRight(line, "\n")
		switch {
		case strings.HasPrefix(line, "["):
			if len(setting) > 0 {
				flush()
			}
			of, prose = prose, nil
			section = strings.Trim(line, "[]") + "."
			fmt.Fprintf(&page, "\n## `%s`\n", line)
			if len(of) > 0 {
				fmt.Fprintf(&page, "\n%s\n", strings.Join(of, "\n"))
			}
			flush()
		case strings.HasPrefix(line, "#   "):
			examples = append(examples, line[len("#   "):])
		case line == "#" || line == "":
			if len(setting) > 0 {
				flush()
			}
			prose = nil // about the file, not about a key
		case strings.HasPrefix(line, "# "):
			if len(setting) > 0 && !open {
				flush()
			}
			prose = append(prose, line[len("# "):])
		case strings.HasPrefix(line, "#"):
			if len(setting) > 0 && !open {
				flush()
			}
			setting = append(setting, line[len("#"):])
			all := strings.Join(setting, "")
			open = strings.Count(all, "[") != strings.Count(all, "]")
		}
	}
	flush()
	return page.String()
}

func restReference(t *testing.T) string {
	t.Helper()
	doc, err := openapi3.NewLoader().LoadFromData(control.Document)
	if err != nil {
		t.Fatal(err)
	}
	var page bytes.Buffer
	page.WriteString("# REST\n\nThe routes of [openapi.yaml](../../control/openapi.yaml), which is served at `/api/openapi.yaml`. " +
		"[The API](../api.md) says how to reach it.\n")
	for _, path := range slices.Sorted(maps.Keys(doc.Paths.Map())) {
		item := doc.Paths.Value(path)
		for _, method := range slices.Sorted(maps.Keys(item.Operations())) {
			operation := item.Operations()[method]
			fmt.Fprintf(&page, "\n## %s %s\n\n%s\n", method, path, cmp.Or(operation.Description, operation.Summary))
			for _, parameter := range slices.Concat(item.Parameters, operation.Parameters) {
				p := parameter.Value
				fmt.Fprintf(&page, "\n- `%s` (%s, %s): %s", p.Name, p.In, kindOf(p.Schema), oneParagraph(p.Description))
			}
			if len(operation.Parameters)+len(item.Parameters) > 0 {
				page.WriteString("\n")
			}
			if operation.RequestBody != nil {
				for _, media := range operation.RequestBody.Value.Content {
					fmt.Fprintf(&page, "\nTakes %s.\n", kindOf(media.Schema))
				}
			}
			page.WriteString("\n| status | with | |\n| --- | --- | --- |\n")
			for _, status := range slices.Sorted(maps.Keys(operation.Responses.Map())) {
				response := operation.Responses.Value(status).Value
				with := ""
				for _, kind := range slices.Sorted(maps.Keys(response.Content)) {
					with = strings.TrimPrefix(with+"; "+kind+": "+kindOf(response.Content[kind].Schema), "; ")
				}
				fmt.Fprintf(&page, "| %s | %s | %s |\n", status, with, oneParagraph(*response.Description))
			}
		}
	}
	page.WriteString("\n# Objects\n")
	for _, name := range slices.Sorted(maps.Keys(doc.Components.Schemas)) {
		schema := doc.Components.Schemas[name].Value
		fmt.Fprintf(&page, "\n## %s\n\n%s\n", name, oneParagraph(schema.Description))
		fields(&page, schema)
	}
	return page.String()
}

// fields lists an object's, those of what it is made of first.
func fields(page *bytes.Buffer, schema *openapi3.Schema) {
	if len(schema.Enum) > 0 {
		fmt.Fprintf(page, "\nOne of %v.\n", schema.Enum)
	}
	for _, part := range schema.AllOf {
		if part.Ref != "" {
			fmt.Fprintf(page, "\nAll of %s, and:\n", kindOf(part))
			continue
		}
		fields(page, part.Value)
	}
	if len(schema.Properties) == 0 {
		return
	}
	page.WriteString("\n| field | type | |\n| --- | --- | --- |\n")
	for _, name := range slices.Sorted(maps.Keys(schema.Properties)) {
		field := schema.Properties[name]
		required := ""
		if !slices.Contains(schema.Required, name) {
			required = ", optional"
		}
		fmt.Fprintf(page, "| `%s` | %s%s | %s |\n", name, kindOf(field), required, oneParagraph(field.Value.Description))
	}
}

// kindOf is a schema in a word or two; objects with a name are linked.
func kindOf(ref *openapi3.SchemaRef) string {
	switch {
	case ref == nil || ref.Value == nil:
		return "anything"
	case ref.Ref != "":
		name := ref.Ref[strings.LastIndexByte(ref.Ref, '/')+1:]
		return "[" + name + "](#" + strings.ToLower(name) + ")"
	case ref.Value.Items != nil:
		return "array of " + kindOf(ref.Value.Items)
	case len(ref.Value.AllOf) == 1:
		return kindOf(ref.Value.AllOf[0])
	case len(ref.Value.Enum) > 0:
		words := make([]string, len(ref.Value.Enum))
		for i, word := range ref.Value.Enum {
			words[i] = fmt.Sprintf("`%v`", word)
		}
		return strings.Join(words, ", ")
	case ref.Value.Type == nil:
		return "object"
	}
	kind := strings.Join(ref.Value.Type.Slice(), " or ")
	if ref.Value.Format != "" {
		kind += " (" + ref.Value.Format + ")"
	}
	return kind
}

// oneParagraph is prose that fits into a table.
func oneParagraph(text string) string {
	return strings.ReplaceAll(strings.Join(strings.Fields(text), " "), "|", `\|`)
}

// eventReference reads the kinds, and what the comment before each says.
func eventReference(t *testing.T) string {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), filepath.Join("..", "..", "pool", "event.go"), nil, parser.ParseComments)
	if err != nil {
		t.Fatal(err)
	}
	var page bytes.Buffer
	page.WriteString("# Events\n\nThe kinds of events that `sluice events`, `/api/events`, the audit log and the notices know. " +
		"[Notices](../notices.md) says which of them people are told unasked.\n")
	for _, decl := range file.Decls {
		block, ok := decl.(*ast.GenDecl)
		if !ok || block.Tok != token.CONST {
			continue
		}
		fmt.Fprintf(&page, "\n%s\n\n| kind | when |\n| --- | --- |\n", strings.TrimSpace(block.Doc.Text()))
		for _, spec := range block.Specs {
			value := spec.(*ast.ValueSpec)
			kind, err := strconv.Unquote(value.Values[0].(*ast.BasicLit).Value)
			_, says, ok := strings.Cut(oneParagraph(value.Doc.Text()), ": ")
			if err != nil || !ok {
				t.Errorf("%s has no comment of the form \"NAME: when\": %v", value.Names[0], err)
			}
			fmt.Fprintf(&page, "| `%s` | %s |\n", kind, says)
		}
	}
	return page.String()
}
