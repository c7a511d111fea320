// Package audit keeps the tamper-evident log of events: lines of JSON chained by a
// keyed hash over all files of the log, and a head that says where it ends.
//
// What is written, in this order, for each batch of events: the lines, with fsync;
// then the head, by rename. The head's generation is in every line, so that after a
// kill the lines that the head does not know yet can be told from a head that
// somebody put back. docs/audit.md describes the format and what it proves.
package audit
