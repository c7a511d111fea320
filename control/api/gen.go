package api

//go:generate go tool -modfile=../../scripts/tools/go.mod oapi-codegen -config oapi-codegen.yaml ../openapi.yaml
//go:generate go tool -modfile=../../scripts/tools/go.mod gofumpt -w api.gen.go
