/* SPDX-License-Identifier: MIT OR GPL-2.0 */
/* What kinds of destinations there are: the caller's own host, which is never bound, and the internet. */
#ifndef SLUICE_LOOPBACK_H
#define SLUICE_LOOPBACK_H

#include "redirect.h"

static __always_inline int is_loopback4(__u32 ip)
{
	return (ip & htonl(0xff000000)) == htonl(0x7f000000) || ip == 0;
}

static __always_inline int is_mapped(const struct address *a)
{
	return a->word[0] == 0 && a->word[1] == 0 && a->word[2] == htonl(0xffff);
}

static __always_inline int is_loopback6(const struct address *a)
{
	if (is_mapped(a))
		return is_loopback4(a->word[3]);
	return a->word[0] == 0 && a->word[1] == 0 && a->word[2] == 0 && (a->word[3] == htonl(1) || a->word[3] == 0);
}

/* 2000::/3: all there is of IPv6's internet (IANA's registry of global unicast addresses). */
static __always_inline int is_global6(const struct address *a)
{
	return (a->word[0] & htonl(0xe0000000)) == htonl(0x20000000);
}

#endif
