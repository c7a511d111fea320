// Package pool leases the members of credential pools to requests, judges members
// by the answers, and keeps one that is refused out for as long as its upstream said.
//
// A credential is a static key or an OAuth account. An account's access token is
// refreshed ahead of its end, before a request that would be sent with an ended one,
// and after a 401; the new tokens are stored before they are used. A refresh token
// that is not accepted takes the member out until [Keeper.UpdateCredential] is given
// new ones, or the endpoint changes its mind.
//
// What a member's account has made (a stored response, reasoning that only it can
// decrypt, an uploaded file) is a tie: a request that names it goes to that member and
// to no other. Of what is named only a hash is kept.
//
// Selection, classification, hints and cooldowns are pure functions of their
// arguments; [Keeper] is the edge, and a [Store] holds the truth.
package pool
