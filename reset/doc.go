// Package reset runs an agent's own auth reset command where the agent runs, once
// the pool that it was told is exhausted has recovered: an agent that wrote the
// refusal down works again without anybody's doing.
package reset
