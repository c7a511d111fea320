// Package cgroup finds, identifies and watches control groups of the unified (v2) hierarchy.
package cgroup
