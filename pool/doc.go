// Package pool leases the members of credential pools to requests, judges members
// by the answers, and keeps one that is refused out for as long as its upstream said.
//
// A credential is a static key or an OAuth account. An account is used with the
// access token that is stored: this package does not refresh it. Once the token
// has expired, its 401 cools the member for five minutes at a time, until
// [Keeper.UpdateCredential] is given new tokens.
//
// What a member's account has made (a stored response, reasoning that only it can
// decrypt, an uploaded file) is a tie: a request that names it goes to that member and
// to no other. Of what is named only a hash is kept.
//
// Selection, classification, hints and cooldowns are pure functions of their
// arguments; [Keeper] is the edge, and a [Store] holds the truth.
package pool
