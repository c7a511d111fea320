package control

// Channel is a way in which people and programs reach the operations.
type Channel string

const (
	// ChannelUnix is the REST API on its unix socket, which the command line uses as well.
	ChannelUnix Channel = "unix"
	// ChannelTCP is the REST API behind a bearer token.
	ChannelTCP Channel = "tcp"
	// ChannelTelegram is a chat.
	ChannelTelegram Channel = "telegram"
)

// Actor is who asked for an operation, and what they knew. A change that was made
// is in the log of events under the actor's name.
type Actor struct {
	Channel Channel
	// Who is the actor as the channel knows them: "UID/USER" of the process at the
	// other end of the unix socket, by the kernel's word; "TOKEN@ADDRESS" over TCP;
	// "CHAT/USER" in a Telegram chat. Empty: not known.
	Who string
	// Seen is the [Version] of the pool that the actor looked at before asking for a
	// change of it. If it is another one by then, the change is refused. Empty: whatever
	// the pool is like.
	Seen string
}

// String is the actor's name in the log of events.
func (a Actor) String() string {
	who := a.Who
	if who == "" {
		who = "unknown"
	}
	return string(a.Channel) + ":" + who
}
