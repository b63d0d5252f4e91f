/*
 * Copyright (C) clawd authors
 */


#include "ngx_http_clawd_zone.h"


#define NGX_HTTP_CLAWD_ZONE_MAGIC    0x434c4157      /* "CLAW" */
#define NGX_HTTP_CLAWD_ZONE_VERSION  1

#define NGX_HTTP_CLAWD_ZONE_LINE     64              /* a cache line */


typedef struct {
    ngx_uint_t              version;
    size_t                  size;
    size_t                  proc_size;
    size_t                  offset;       /* of the part in a process block */
    void                   *data;         /* shared part, in the same zone */
} ngx_http_clawd_slice_t;


/*
 * The root is written once, before any worker starts, but for slots and procs:
 * these only grow, under the mutex, and are read without it.
 */

struct ngx_http_clawd_root_s {
    ngx_uint_t              magic;
    ngx_uint_t              version;
    size_t                  size;         /* of the root itself */
    ngx_uint_t              nareas;
    size_t                  proc_size;    /* of a whole process block */
    ngx_http_clawd_slice_t  areas[NGX_HTTP_CLAWD_ZONE_AREAS];

    ngx_atomic_t            slots;        /* procs in use are below */
    ngx_http_clawd_proc_t  *procs[NGX_MAX_PROCESSES];
};


static ngx_int_t ngx_http_clawd_zone_init(ngx_shm_zone_t *shm_zone,
    void *data);
static ngx_int_t ngx_http_clawd_zone_inherit(ngx_http_clawd_zone_t *zone,
    ngx_http_clawd_root_t *root);
static ngx_int_t ngx_http_clawd_zone_create(ngx_http_clawd_zone_t *zone);
static ngx_http_clawd_proc_t *ngx_http_clawd_zone_block(
    ngx_http_clawd_zone_t *zone, ngx_uint_t slot);
static void ngx_http_clawd_zone_reap(ngx_http_clawd_zone_t *zone,
    ngx_http_clawd_proc_t *proc);


ngx_shm_zone_t *
ngx_http_clawd_zone_add(ngx_conf_t *cf, ngx_str_t *value, void *tag,
    ngx_http_clawd_area_t **areas)
{
    u_char                 *p;
    ssize_t                 size;
    ngx_str_t               name, s;
    ngx_shm_zone_t         *shm_zone;
    ngx_http_clawd_zone_t  *zone;

    p = (u_char *) ngx_strchr(value->data, ':');

    if (p == NULL || p == value->data) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "invalid zone \"%V\": name:size is expected",
                           value);
        return NULL;
    }

    name.data = value->data;
    name.len = p - value->data;

    s.data = p + 1;
    s.len = value->data + value->len - s.data;

    size = ngx_parse_size(&s);

    if (size == NGX_ERROR) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "invalid zone size \"%V\"", value);
        return NULL;
    }

    if (size < (ssize_t) (64 * ngx_pagesize)) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "zone \"%V\" is too small: at least %uzk is needed",
                           value, (size_t) (64 * ngx_pagesize / 1024));
        return NULL;
    }

    zone = ngx_pcalloc(cf->pool, sizeof(ngx_http_clawd_zone_t));
    if (zone == NULL) {
        return NULL;
    }

    shm_zone = ngx_shared_memory_add(cf, &name, size, tag);
    if (shm_zone == NULL) {
        return NULL;
    }

    if (shm_zone->data) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "zone \"%V\" is already defined", &name);
        return NULL;
    }

    zone->areas = areas;
    zone->shm_zone = shm_zone;

    shm_zone->init = ngx_http_clawd_zone_init;
    shm_zone->data = zone;

    return shm_zone;
}


static ngx_int_t
ngx_http_clawd_zone_init(ngx_shm_zone_t *shm_zone, void *data)
{
    ngx_http_clawd_zone_t  *ozone = data;

    ngx_int_t               rc;
    ngx_http_clawd_zone_t  *zone;

    zone = shm_zone->data;

    if (ozone) {
        zone->shpool = ozone->shpool;

        /* a single process keeps its block over a reload */
        zone->proc = ozone->proc;

        rc = ngx_http_clawd_zone_inherit(zone, ozone->root);

    } else {
        zone->shpool = (ngx_slab_pool_t *) shm_zone->shm.addr;

        rc = shm_zone->shm.exists
             ? ngx_http_clawd_zone_inherit(zone, zone->shpool->data)
             : ngx_http_clawd_zone_create(zone);
    }

    if (rc != NGX_OK || zone->ready == NULL) {
        return rc;
    }

    return zone->ready(zone, zone->data);
}


/* What lives in the zone is used as it is or not at all. */

static ngx_int_t
ngx_http_clawd_zone_inherit(ngx_http_clawd_zone_t *zone,
    ngx_http_clawd_root_t *root)
{
    char                    *name;
    ngx_uint_t               i;
    ngx_http_clawd_area_t   *area;
    ngx_http_clawd_slice_t  *slice;

    name = "root";

    if (root == NULL
        || root->magic != NGX_HTTP_CLAWD_ZONE_MAGIC
        || root->version != NGX_HTTP_CLAWD_ZONE_VERSION
        || root->size != sizeof(ngx_http_clawd_root_t))
    {
        goto refused;
    }

    for (i = 0; zone->areas[i]; i++) {
        area = zone->areas[i];
        slice = &root->areas[i];
        name = area->name;

        if (i >= root->nareas
            || slice->version != area->version
            || slice->size != area->size
            || slice->proc_size != area->proc_size)
        {
            goto refused;
        }
    }

    if (i != root->nareas) {
        goto refused;
    }

    zone->root = root;

    return NGX_OK;

refused:

    ngx_log_error(NGX_LOG_EMERG, zone->shm_zone->shm.log, 0,
                  "zone \"%V\" was made by another version of clawd, whose "
                  "layout of \"%s\" differs: restart nginx, or give the zone "
                  "another name", &zone->shm_zone->shm.name, name);

    return NGX_ERROR;
}


static ngx_int_t
ngx_http_clawd_zone_create(ngx_http_clawd_zone_t *zone)
{
    size_t                   offset;
    ngx_uint_t               i;
    ngx_slab_pool_t         *shpool;
    ngx_http_clawd_area_t   *area;
    ngx_http_clawd_root_t   *root;
    ngx_http_clawd_slice_t  *slice;

    shpool = zone->shpool;
    shpool->log_nomem = 0;

    root = ngx_slab_calloc(shpool, sizeof(ngx_http_clawd_root_t));
    if (root == NULL) {
        goto nomem;
    }

    offset = ngx_align(sizeof(ngx_http_clawd_proc_t),
                       NGX_HTTP_CLAWD_ZONE_LINE);

    for (i = 0; zone->areas[i]; i++) {
        area = zone->areas[i];
        slice = &root->areas[i];

        slice->version = area->version;
        slice->size = area->size;
        slice->proc_size = area->proc_size;
        slice->offset = offset;

        offset += ngx_align(area->proc_size, NGX_HTTP_CLAWD_ZONE_LINE);

        slice->data = ngx_slab_calloc(shpool, area->size);
        if (slice->data == NULL) {
            goto nomem;
        }

        root->nareas++;
    }

    root->magic = NGX_HTTP_CLAWD_ZONE_MAGIC;
    root->version = NGX_HTTP_CLAWD_ZONE_VERSION;
    root->size = sizeof(ngx_http_clawd_root_t);
    root->proc_size = offset;

    shpool->data = root;
    zone->root = root;

    for (i = 0; zone->areas[i]; i++) {
        if (zone->areas[i]->init(zone, root->areas[i].data) != NGX_OK) {
            goto nomem;
        }
    }

    return NGX_OK;

nomem:

    ngx_log_error(NGX_LOG_EMERG, zone->shm_zone->shm.log, 0,
                  "zone \"%V\" is too small", &zone->shm_zone->shm.name);

    return NGX_ERROR;
}


void
ngx_http_clawd_zone_claim(ngx_shm_zone_t *shm_zone, ngx_log_t *log)
{
    ngx_http_clawd_proc_t  *proc;
    ngx_http_clawd_zone_t  *zone;

    zone = shm_zone->data;

    ngx_shmtx_lock(&zone->shpool->mutex);

    proc = ngx_http_clawd_zone_block(zone, ngx_process_slot);

    ngx_shmtx_unlock(&zone->shpool->mutex);

    if (proc == NULL) {
        ngx_log_error(NGX_LOG_ERR, log, 0,
                      "zone \"%V\" is full: what this worker holds is not "
                      "counted", &shm_zone->shm.name);
        return;
    }

    /*
     * The slot is ours alone from here: the master gives it to a new process
     * only after it has waited for the previous one.
     */

    ngx_http_clawd_zone_reap(zone, proc);

    proc->generation++;
    ngx_memory_barrier();
    proc->pid = ngx_pid;

    zone->proc = proc;
}


void
ngx_http_clawd_zone_release(ngx_shm_zone_t *shm_zone)
{
    ngx_http_clawd_zone_t  *zone;

    zone = shm_zone->data;

    if (zone->proc) {
        ngx_http_clawd_zone_reap(zone, zone->proc);
        zone->proc = NULL;
    }
}


/* The block of a slot, made when the slot is used first; under the mutex. */

static ngx_http_clawd_proc_t *
ngx_http_clawd_zone_block(ngx_http_clawd_zone_t *zone, ngx_uint_t slot)
{
    ngx_http_clawd_proc_t  *proc;
    ngx_http_clawd_root_t  *root;

    root = zone->root;
    proc = root->procs[slot];

    if (proc == NULL) {
        proc = ngx_slab_calloc_locked(zone->shpool, root->proc_size);
        if (proc == NULL) {
            return NULL;
        }

        root->procs[slot] = proc;
    }

    if (root->slots <= slot) {
        ngx_memory_barrier();
        root->slots = slot + 1;
    }

    return proc;
}


/* Empties a block; its owner is dead, or is the caller. */

static void
ngx_http_clawd_zone_reap(ngx_http_clawd_zone_t *zone,
    ngx_http_clawd_proc_t *proc)
{
    void        *part;
    ngx_pid_t    pid;
    ngx_uint_t   i;

    pid = (ngx_pid_t) proc->pid;

    proc->pid = 0;
    ngx_memory_barrier();

    for (i = 0; zone->areas[i]; i++) {
        part = ngx_http_clawd_zone_part(zone, proc, i);

        if (pid && zone->areas[i]->reap) {
            zone->areas[i]->reap(zone->root->areas[i].data, part, pid);
        }

        ngx_memzero(part, zone->areas[i]->proc_size);
    }
}


void *
ngx_http_clawd_zone_area(ngx_http_clawd_zone_t *zone, ngx_uint_t i)
{
    return zone->root->areas[i].data;
}


void *
ngx_http_clawd_zone_part(ngx_http_clawd_zone_t *zone,
    ngx_http_clawd_proc_t *proc, ngx_uint_t i)
{
    return (u_char *) proc + zone->root->areas[i].offset;
}


ngx_http_clawd_proc_t *
ngx_http_clawd_zone_next(ngx_http_clawd_zone_t *zone, ngx_uint_t *slot)
{
    ngx_pid_t               pid;
    ngx_http_clawd_proc_t  *proc;
    ngx_http_clawd_root_t  *root;

    root = zone->root;

    while (*slot < root->slots) {
        proc = root->procs[(*slot)++];

        if (proc == NULL) {
            continue;
        }

        pid = (ngx_pid_t) proc->pid;

        if (pid && (kill(pid, 0) == 0 || ngx_errno != ESRCH)) {
            return proc;
        }
    }

    return NULL;
}


size_t
ngx_http_clawd_zone_free(ngx_http_clawd_zone_t *zone)
{
    ngx_uint_t  n;

    ngx_shmtx_lock(&zone->shpool->mutex);

    n = zone->shpool->pfree;

    ngx_shmtx_unlock(&zone->shpool->mutex);

    return n * ngx_pagesize;
}
