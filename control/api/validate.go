package api

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers"

	"github.com/sluice-proxy/sluice/pool"
)

// MaxBody is the longest request body that is read, in bytes.
const MaxBody = 256 << 10

// maxDepth is far above what the document's deepest body needs.
const maxDepth = 16

// validator holds requests against the document.
type validator struct {
	doc *openapi3.T
}

func newValidator(document []byte) (*validator, error) {
	doc, err := openapi3.NewLoader().LoadFromData(document)
	if err != nil {
		return nil, fmt.Errorf("openapi.yaml: %w", err)
	}
	return &validator{doc: doc}, nil
}

// check returns a *pool.Error that names the field at fault, and nothing of the
// field's value: that may be a secret. The request must have been routed, so
// that its pattern is a path of the document.
func (v *validator) check(r *http.Request) error {
	route, params := v.route(r)
	if route == nil {
		return nil
	}
	if err := readBody(r, route.Operation); err != nil {
		return err
	}
	err := openapi3filter.ValidateRequest(r.Context(), &openapi3filter.RequestValidationInput{
		Request: r, PathParams: params, Route: route,
		Options: &openapi3filter.Options{
			AuthenticationFunc: openapi3filter.NoopAuthenticationFunc,
			// Defaults are the operations' affair: a body stays as it was sent.
			SkipSettingDefaults: true,
		},
	})
	if err != nil {
		return invalid("%s", reason(err))
	}
	return unknownQuery(r, route)
}

func (v *validator) route(r *http.Request) (*routers.Route, map[string]string) {
	_, path, found := strings.Cut(r.Pattern, " ")
	if !found {
		return nil, nil
	}
	item := v.doc.Paths.Value(path)
	method := r.Method
	if method == http.MethodHead {
		method = http.MethodGet // what answers GET answers HEAD (RFC 9110, 9.3.2)
	}
	if item == nil || item.GetOperation(method) == nil {
		return nil, nil
	}
	params := make(map[string]string)
	for _, segment := range strings.Split(path, "/") {
		if name, ok := strings.CutPrefix(segment, "{"); ok {
			name = strings.TrimSuffix(name, "}")
			params[name] = r.PathValue(name)
		}
	}
	return &routers.Route{
		Spec: v.doc, Path: path, PathItem: item, Method: method, Operation: item.GetOperation(method),
	}, params
}

// readBody takes the body in, bounded, and sees to it that it is one JSON value
// and nothing after it.
func readBody(r *http.Request, operation *openapi3.Operation) error {
	body, err := io.ReadAll(io.LimitReader(r.Body, MaxBody+1))
	switch {
	case err != nil:
		return invalid("body: cannot be read: %s", err)
	case len(body) > MaxBody:
		return invalid("body: longer than %d bytes", MaxBody)
	case operation.RequestBody == nil && len(bytes.TrimSpace(body)) > 0:
		return invalid("body: this route takes none")
	}
	if operation.RequestBody == nil || (len(body) == 0 && !operation.RequestBody.Value.Required) {
		r.Body, r.ContentLength = http.NoBody, 0
		r.Header.Del("Content-Type")
		return nil
	}
	if len(body) == 0 {
		return invalid("body: a JSON object is required")
	}
	if kind := r.Header.Get("Content-Type"); kind == "" {
		// There is only one kind of body, so saying so is optional.
		r.Header.Set("Content-Type", "application/json")
	}
	if err := oneValue(body); err != nil {
		return err
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	r.ContentLength = int64(len(body))
	return nil
}

func oneValue(body []byte) error {
	decoder := json.NewDecoder(bytes.NewReader(body))
	if err := duplicates(decoder, "", maxDepth); err != nil {
		return err
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return invalid("body: something follows the JSON value at byte %d", decoder.InputOffset())
	}
	return nil
}

// duplicates walks one JSON value and refuses an object that says the same
// thing twice: two readers could take different ones to be meant.
func duplicates(decoder *json.Decoder, at string, depth int) error {
	if depth == 0 {
		return invalid("body: nested more than %d deep", maxDepth)
	}
	token, err := decoder.Token()
	if err != nil {
		return invalid("body: not JSON: %s", strings.TrimPrefix(err.Error(), "json: "))
	}
	delim, ok := token.(json.Delim)
	if !ok {
		return nil
	}
	seen := make(map[string]bool)
	for decoder.More() {
		inner := at
		if delim == '{' {
			key, err := decoder.Token()
			if err != nil {
				return invalid("body: not JSON: %s", err)
			}
			name, _ := key.(string)
			if inner = strings.TrimPrefix(at+"."+name, "."); seen[name] {
				return invalid("%s: given twice", inner)
			}
			seen[name] = true
		}
		if err := duplicates(decoder, inner, depth-1); err != nil {
			return err
		}
	}
	if _, err := decoder.Token(); err != nil {
		return invalid("body: not JSON: %s", err)
	}
	return nil
}

// reason is one line out of what the validation library found, with the field first.
func reason(err error) string {
	var request *openapi3filter.RequestError
	field, cause := "body", err
	if errors.As(err, &request) {
		if request.Parameter != nil {
			field = request.Parameter.Name
		}
		if cause = request.Err; cause == nil {
			return field + ": " + request.Reason
		}
	}
	var schema *openapi3.SchemaError
	if errors.As(cause, &schema) {
		path := schema.JSONPointer()
		var unknown string
		if n, _ := fmt.Sscanf(schema.Reason, "property %q is unsupported", &unknown); n == 1 {
			path = append(slices.Clone(path), unknown)
		}
		if len(path) > 0 {
			field = strings.Join(path, ".")
		}
		return field + ": " + schema.Reason
	}
	var parse *openapi3filter.ParseError
	if errors.As(cause, &parse) {
		return field + ": " + strings.TrimSpace(parse.Reason)
	}
	if request != nil && request.Reason != "" {
		return field + ": " + request.Reason
	}
	return field + ": not as the document demands"
}

// unreadable is what the generated code could not make a parameter's value of, with the parameter first.
func unreadable(err error) error {
	parameter, ok := errors.AsType[*InvalidParamFormatError](err)
	if !ok {
		return invalid("%s", err)
	}
	switch {
	case errors.Is(err, strconv.ErrRange):
		return invalid("%s: number is too large", parameter.ParamName)
	case errors.Is(err, strconv.ErrSyntax):
		return invalid("%s: value must be an integer", parameter.ParamName)
	}
	return invalid("%s: %s", parameter.ParamName, parameter.Err)
}

func unknownQuery(r *http.Request, route *routers.Route) error {
	for name := range r.URL.Query() {
		if route.Operation.Parameters.GetByInAndName(openapi3.ParameterInQuery, name) == nil {
			return invalid("%s: there is no such query parameter", name)
		}
	}
	return nil
}

func invalid(format string, args ...any) error {
	return &pool.Error{Code: pool.CodeInvalid, Message: fmt.Sprintf(format, args...)}
}
