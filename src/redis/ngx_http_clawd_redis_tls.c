/*
 * Copyright (C) clawd authors
 */


#include "ngx_http_clawd_redis_conn.h"

#if (NGX_SSL)

#include <openssl/x509v3.h>


#define NGX_HTTP_CLAWD_REDIS_DEPTH  5        /* of a chain of certificates */


static void ngx_http_clawd_redis_tls_done(ngx_connection_t *c);
static const char *ngx_http_clawd_redis_tls_verify(ngx_connection_t *c,
    ngx_http_clawd_redis_conf_t *conf);
static ngx_uint_t ngx_http_clawd_redis_tls_is_ip(ngx_str_t *name);


ngx_int_t
ngx_http_clawd_redis_tls_conf(ngx_conf_t *cf,
    ngx_http_clawd_redis_conf_t *conf, ngx_str_t *ca)
{
    ngx_ssl_t           *ssl;
    ngx_pool_cleanup_t  *cln;

    ssl = ngx_pcalloc(cf->pool, sizeof(ngx_ssl_t));
    if (ssl == NULL) {
        return NGX_ERROR;
    }

    ssl->log = cf->log;

    cln = ngx_pool_cleanup_add(cf->pool, 0);
    if (cln == NULL) {
        return NGX_ERROR;
    }

    if (ngx_ssl_create(ssl, NGX_SSL_TLSv1_2|NGX_SSL_TLSv1_3, NULL) != NGX_OK) {
        return NGX_ERROR;
    }

    cln->handler = ngx_ssl_cleanup_ctx;
    cln->data = ssl;

    /* what is left of a write may have been moved when it goes on */

    SSL_CTX_set_mode(ssl->ctx, SSL_MODE_ENABLE_PARTIAL_WRITE
                               |SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);

    if (ca->len) {
        if (ngx_ssl_trusted_certificate(cf, ssl, ca,
                                        NGX_HTTP_CLAWD_REDIS_DEPTH)
            != NGX_OK)
        {
            return NGX_ERROR;
        }

    } else if (SSL_CTX_set_default_verify_paths(ssl->ctx) != 1) {
        ngx_ssl_error(NGX_LOG_EMERG, cf->log, 0,
                      "the certificates of the system can't be read: name "
                      "the file of the CA with \"ca=FILE\"");
        return NGX_ERROR;
    }

    conf->ssl = ssl;

    return NGX_OK;
}


void
ngx_http_clawd_redis_tls_start(ngx_http_clawd_redis_conn_t *conn)
{
    ngx_int_t          rc;
    ngx_str_t         *name;
    ngx_connection_t  *c;

    c = conn->peer.connection;
    name = &conn->conf->ssl_name;

    rc = ngx_ssl_create_connection(conn->conf->ssl, c, NGX_SSL_CLIENT);

    /* an address is no server name; names end with a null */

    if (rc == NGX_OK && !ngx_http_clawd_redis_tls_is_ip(name)
        && SSL_set_tlsext_host_name(c->ssl->connection, (char *) name->data)
           != 1)
    {
        rc = NGX_ERROR;
    }

    if (rc != NGX_OK) {
        ngx_http_clawd_redis_conn_fail(conn, NGX_HTTP_CLAWD_REDIS_CONNECT,
                                       "TLS could not be set up", 0);
        return;
    }

    rc = ngx_ssl_handshake(c);

    if (rc == NGX_AGAIN) {
        c->ssl->handler = ngx_http_clawd_redis_tls_done;
        return;
    }

    ngx_http_clawd_redis_tls_done(c);
}


static void
ngx_http_clawd_redis_tls_done(ngx_connection_t *c)
{
    const char                   *fault;
    ngx_http_clawd_redis_conn_t  *conn;

    conn = c->data;

    fault = "the TLS handshake failed";

    if (c->ssl->handshaked) {
        fault = ngx_http_clawd_redis_tls_verify(c, conn->conf);
    }

    if (fault) {
        ngx_http_clawd_redis_conn_fail(conn, NGX_HTTP_CLAWD_REDIS_CONNECT,
                                       fault, 0);
        return;
    }

    ngx_http_clawd_redis_conn_ready(conn);
}


/* NULL, or what is wrong; static text */

static const char *
ngx_http_clawd_redis_tls_verify(ngx_connection_t *c,
    ngx_http_clawd_redis_conf_t *conf)
{
    int    rc;
    long   result;
    X509  *cert;

    if (!conf->ssl_verify) {
        return NULL;
    }

    result = SSL_get_verify_result(c->ssl->connection);

    if (result != X509_V_OK) {
        return X509_verify_cert_error_string(result);
    }

    if (!ngx_http_clawd_redis_tls_is_ip(&conf->ssl_name)) {

        if (ngx_ssl_check_host(c, &conf->ssl_name) != NGX_OK) {
            return "the certificate is of another name";
        }

        return NULL;
    }

    cert = SSL_get_peer_certificate(c->ssl->connection);
    if (cert == NULL) {
        return "there is no certificate";
    }

    rc = X509_check_ip_asc(cert, (char *) conf->ssl_name.data, 0);

    X509_free(cert);

    return (rc == 1) ? NULL : "the certificate is of another address";
}


static ngx_uint_t
ngx_http_clawd_redis_tls_is_ip(ngx_str_t *name)
{
    return ngx_strlchr(name->data, name->data + name->len, ':') != NULL
           || ngx_inet_addr(name->data, name->len) != INADDR_NONE;
}


void
ngx_http_clawd_redis_tls_close(ngx_connection_t *c)
{
    if (c->ssl) {

        /* nothing is waited for, so that this never needs another turn */

        c->ssl->no_wait_shutdown = 1;
        c->ssl->no_send_shutdown = 1;

        (void) ngx_ssl_shutdown(c);
    }
}


#else

ngx_int_t
ngx_http_clawd_redis_tls_conf(ngx_conf_t *cf,
    ngx_http_clawd_redis_conf_t *conf, ngx_str_t *ca)
{
    ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                       "\"rediss://\" needs an NGINX that was built "
                       "--with-http_ssl_module");
    return NGX_ERROR;
}


/* not called, as conf->ssl is NULL */

void
ngx_http_clawd_redis_tls_start(ngx_http_clawd_redis_conn_t *conn)
{
    ngx_http_clawd_redis_conn_ready(conn);
}


void
ngx_http_clawd_redis_tls_close(ngx_connection_t *c)
{
    /* void */
}

#endif
