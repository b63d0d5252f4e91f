/*
 * Copyright (C) clawd authors
 *
 * The shared zone: what all workers, old and new ones over a reload, count
 * and hold together.  A room of the house brings an area: one shared part,
 * and a part of each worker process's own block, which is the owner's alone
 * to write and dies with it.
 */

#ifndef _NGX_HTTP_CLAWD_ZONE_H_INCLUDED_
#define _NGX_HTTP_CLAWD_ZONE_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>


#pragma GCC visibility push(hidden)


#define NGX_HTTP_CLAWD_ZONE_AREAS  8      /* at most */


typedef struct ngx_http_clawd_zone_s    ngx_http_clawd_zone_t;
typedef struct ngx_http_clawd_root_s    ngx_http_clawd_root_t;
typedef struct ngx_http_clawd_proc_s    ngx_http_clawd_proc_t;


/*
 * An area, static in its room.  A layout is the number of the area's place in
 * the list, its version and its sizes: one that differs from what lives in the
 * zone is refused, so raise the version whenever a field changes its meaning.
 */

typedef struct {
    char        *name;        /* for messages */
    ngx_uint_t   version;
    size_t       size;        /* of the shared part */
    size_t       proc_size;   /* of the part in each process block; or 0 */

    /*
     * Fills the shared part, which is zeroed, of a fresh zone; called in the
     * master, alone.  NGX_OK, or NGX_ERROR for want of room.
     */
    ngx_int_t  (*init)(ngx_http_clawd_zone_t *zone, void *area);

    /*
     * Gives back what the dead process pid held; called without the mutex by
     * the process that takes over its block, which zeroes the part after it.
     * May be NULL.
     */
    void       (*reap)(void *area, void *part, ngx_pid_t pid);
} ngx_http_clawd_area_t;


struct ngx_http_clawd_proc_s {
    ngx_atomic_t             pid;          /* 0: nobody's */
    ngx_atomic_t             generation;   /* how often it was claimed */
    /* the areas' parts follow, each on cache lines of its own */
};


/* the process's view of the zone, in the data of its ngx_shm_zone_t */

struct ngx_http_clawd_zone_s {
    ngx_http_clawd_root_t   *root;         /* shared */
    ngx_slab_pool_t         *shpool;       /* its mutex guards all lists */
    ngx_http_clawd_proc_t   *proc;         /* ours; NULL before the claim */
    ngx_http_clawd_area_t  **areas;        /* static, ends with NULL */
    ngx_shm_zone_t          *shm_zone;

    /*
     * Set when the configuration is read, or NULL: called in the master, once
     * the areas are there.  NGX_ERROR, after a message, refuses the
     * configuration; a reload is not begun then.
     */
    ngx_int_t              (*ready)(ngx_http_clawd_zone_t *zone, void *data);
    void                    *data;
};


/*
 * Reads "name:size" and adds the zone to the configuration.  areas is a static
 * list that ends with NULL; tag is the module.  Returns NULL after a message.
 */
ngx_shm_zone_t *ngx_http_clawd_zone_add(ngx_conf_t *cf, ngx_str_t *value,
    void *tag, ngx_http_clawd_area_t **areas);

/*
 * Claims the block of this process's slot; to be called from init_process of
 * workers and of a single process.  What a dead owner of the slot held is
 * given back first.  When the zone has no room for the block that is logged,
 * zone->proc stays NULL and the worker serves without: a full zone must not
 * keep workers from starting.
 */
void ngx_http_clawd_zone_claim(ngx_shm_zone_t *shm_zone, ngx_log_t *log);

/* Gives the block back; to be called from exit_process.  Cannot fail. */
void ngx_http_clawd_zone_release(ngx_shm_zone_t *shm_zone);

/*
 * The shared part of the area at place i of the list, and its part in a
 * process block.
 */
void *ngx_http_clawd_zone_area(ngx_http_clawd_zone_t *zone, ngx_uint_t i);
void *ngx_http_clawd_zone_part(ngx_http_clawd_zone_t *zone,
    ngx_http_clawd_proc_t *proc, ngx_uint_t i);

/*
 * The next block whose owner lives, *slot being 0 at first; NULL at the end.
 * Lock-free: the owner may die or change while its part is read.
 */
ngx_http_clawd_proc_t *ngx_http_clawd_zone_next(ngx_http_clawd_zone_t *zone,
    ngx_uint_t *slot);

/* Bytes in free pages of the zone; takes the mutex. */
size_t ngx_http_clawd_zone_free(ngx_http_clawd_zone_t *zone);


/* The view in a zone made by ngx_http_clawd_zone_add(). */

static ngx_inline ngx_http_clawd_zone_t *
ngx_http_clawd_zone(ngx_shm_zone_t *shm_zone)
{
    return shm_zone->data;
}


#pragma GCC visibility pop


#endif /* _NGX_HTTP_CLAWD_ZONE_H_INCLUDED_ */
