/*
 * Copyright (C) clawd authors
 *
 * What an error reply of Redis means.
 */

#ifndef _NGX_HTTP_CLAWD_REDIS_CLASS_H_INCLUDED_
#define _NGX_HTTP_CLAWD_REDIS_CLASS_H_INCLUDED_


#include "ngx_http_clawd_redis.h"


#pragma GCC visibility push(hidden)


/*
 * The class of an error's text, by its first word; where a script failed,
 * by the error of the command in it.  Never REDIS_OK.
 */
ngx_http_clawd_redis_result_e ngx_http_clawd_redis_class(ngx_str_t *text);


#pragma GCC visibility pop


#endif /* _NGX_HTTP_CLAWD_REDIS_CLASS_H_INCLUDED_ */
