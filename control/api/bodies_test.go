package api

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"strings"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"

	"github.com/sluice-proxy/sluice/control"
)

// wrongs are bodies that a schema does not admit, and the field that is to be named
// for each. The body that they are made of has what is required, and nothing else.
func wrongs(t *testing.T, s *openapi3.Schema) map[string]string {
	t.Helper()
	base := make(map[string]any)
	for _, name := range s.Required {
		base[name] = sample(s.Properties[name].Value)
	}
	all := make(map[string]string) // field by body
	add := func(field string, change func(map[string]any)) {
		body := maps.Clone(base)
		change(body)
		text, err := json.Marshal(body)
		if err != nil {
			t.Fatal(err)
		}
		all[string(text)] = field
	}
	add("nonesuch", func(b map[string]any) { b["nonesuch"] = 1 })
	for _, name := range s.Required {
		add(name, func(b map[string]any) { delete(b, name) })
	}
	for name, p := range s.Properties {
		schema := p.Value
		if len(schema.AllOf) > 0 {
			schema = schema.AllOf[0].Value
		}
		var bad []any
		switch {
		case schema.Type.Is("string"):
			bad = append(bad, 5, true, []string{"a"}, map[string]any{})
			if schema.MinLength > 0 {
				bad = append(bad, "")
			}
			if schema.MaxLength != nil {
				bad = append(bad, strings.Repeat("a", int(*schema.MaxLength)+1))
			}
			if len(schema.Enum) > 0 {
				bad = append(bad, "nonesuch")
			}
		case schema.Type.Is("integer"):
			bad = append(bad, "5", 1.5, true, []int{1})
			if schema.Max != nil {
				bad = append(bad, *schema.Max+1)
			}
		case schema.Type.Is("boolean"):
			bad = append(bad, "true", 1)
		case schema.Type.Is("array"):
			bad = append(bad, "a", map[string]any{}, []any{nil})
		case schema.Type.Is("object"):
			bad = append(bad, "a", []any{}, map[string]any{"nonesuch": 1})
		default:
			t.Errorf("%s is of a type that this test does not know", name)
		}
		if !schema.Nullable {
			bad = append(bad, nil)
		}
		for _, value := range bad {
			field := name
			if object, ok := value.(map[string]any); ok && len(object) > 0 && schema.Type.Is("object") {
				field = "" // what is wrong with it is inside
			}
			add(field, func(b map[string]any) { b[name] = value })
		}
	}
	return all
}

// TestEveryBody sends each route that takes a body whatever its schema does not
// admit, made from the document: 400, with the field's name. It reaches no operation.
func TestEveryBody(t *testing.T) {
	t.Parallel()
	doc, err := openapi3.NewLoader().LoadFromData(control.Document)
	if err != nil {
		t.Fatal(err)
	}
	s := unreachedServer(t)
	fill := strings.NewReplacer("{name}", "a", "{credential}", "a", "{id}", "a")
	routes := 0
	for path, item := range doc.Paths.Map() {
		for method, operation := range item.Operations() {
			if operation.RequestBody == nil {
				continue
			}
			routes++
			schema := operation.RequestBody.Value.Content.Get("application/json").Schema.Value
			bodies := wrongs(t, schema)
			whole, err := json.Marshal(sample(schema))
			if err != nil {
				t.Fatal(err)
			}
			bodies[string(whole)+" x"] = "body"
			bodies[string(whole)+string(whole)] = "body"
			bodies[string(whole[:len(whole)-1])] = "body"
			bodies[`{"`+strings.Repeat("a", MaxBody)+`":1}`] = "body"
			bodies["[]"], bodies["null"], bodies[`"a"`], bodies[" "] = "body", "body", "body", "body"
			if operation.RequestBody.Value.Required {
				bodies[""] = "body"
			}
			for body, field := range bodies {
				w := send(s, method, fill.Replace(path), body)
				var answer Error
				if err := json.Unmarshal(w.Body.Bytes(), &answer); err != nil || w.Code != http.StatusBadRequest || !strings.Contains(answer.Error.Message, field) {
					t.Errorf("%s %s %.200s: %d %s, want 400 that names %q", method, path, body, w.Code, w.Body, field)
				}
				if len(answer.Error.Message) > 500 {
					t.Errorf("%s %s %.100s: a message of %d bytes", method, path, body, len(answer.Error.Message))
				}
			}
		}
	}
	if routes < 7 {
		t.Errorf("only %d routes take a body", routes)
	}
}

// A daemon elsewhere that cannot be reached is not one that does not run here.
func TestUnreachableElsewhere(t *testing.T) {
	t.Parallel()
	client, err := DialURL("http://127.0.0.1:1", "canary", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	_, err = client.Pools(t.Context())
	unreachable, ok := err.(*UnreachableError)
	if !ok || unreachable.NotRunning() || !strings.Contains(fmt.Sprint(err), "http://127.0.0.1:1") || strings.Contains(fmt.Sprint(err), "canary") {
		t.Errorf("%v", err)
	}
}
