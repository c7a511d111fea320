// Package powers tells what the processes of a cgroup could do to get past a redirect that is on the cgroup: what the
// kernel says of each in /proc, whoever made it that way. A container, a unit and a bare process are all the same to it.
package powers
