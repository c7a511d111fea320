// Package control is every operation on pools, credentials and targets, decided once for whichever channel asks.
package control
