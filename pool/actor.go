package pool

import "context"

// MaxActor is the longest name of an actor in bytes: what is beyond is cut.
const MaxActor = 256

type actorKey struct{}

// WithActor says who asks for what is done with the context: it becomes the
// Actor of the events of that change. A change without one is sluice's own and
// adds no event but those it has always had.
func WithActor(ctx context.Context, actor string) context.Context {
	return context.WithValue(ctx, actorKey{}, actor[:min(len(actor), MaxActor)])
}

// ActorOf is who asks, or "".
func ActorOf(ctx context.Context) string {
	actor, _ := ctx.Value(actorKey{}).(string)
	return actor
}

type noteKey struct{}

// noting has the store add an event in the transaction of the change that is
// asked for with the context, so that neither is ever there without the other.
func (k *Keeper) noting(ctx context.Context, e Event) context.Context {
	if e.Actor = ActorOf(ctx); e.Actor == "" {
		return ctx
	}
	e.Time = k.opts.Now()
	return context.WithValue(ctx, noteKey{}, e)
}

// NoteOf is the event that a store adds in the transaction of a change of the
// configuration; false if there is none.
func NoteOf(ctx context.Context) (Event, bool) {
	e, ok := ctx.Value(noteKey{}).(Event)
	return e, ok
}

// asked is the event of a step that a person asked for, if one did.
func asked(ctx context.Context, e Event) []Event {
	if e.Actor = ActorOf(ctx); e.Actor == "" {
		return nil
	}
	return []Event{e}
}
