package control

import _ "embed"

// Document is openapi.yaml: the routes, what they take and what they answer.
//
//go:embed openapi.yaml
var Document []byte
