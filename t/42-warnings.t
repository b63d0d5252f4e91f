# Proxy settings that suit no AI traffic are named once, with their cure.

use strict;
use warnings;

use Test::Nginx::Socket 'no_plan';
use lib 't/lib';
use Clawd::Observe;

no_shuffle();
log_level('warn');


our $bare = "clawd_zone clawd:1m;\nclawd_token sk-alice user=alice;\n";

our %cures = (
    'proxy_http_version 1.1;' => 'proxy_http_version',
    'proxy_set_header Connection "";' => 'Connection',
    'proxy_set_header Host $clawd_upstream_host;' => 'Host',
    'set 600s' => 'proxy_read_timeout',
    'proxy_ignore_headers X-Accel-Redirect' => 'X-Accel',
    'set 64m' => 'client_max_body_size',
);

sub location {
    my ($upstream, $more) = @_;

    return "location / { clawd_pass http://$upstream; $more }";
}


our $both = location('127.0.0.1:$TEST_NGINX_UPSTREAM_PORT',
                     'client_max_body_size 1m;');


# said(CURES...): after three requests these are in the log, each once, and no
# others.

sub said {
    my (@cures) = @_;
    my %wanted = map { $_ => 1 } @cures;

    for (1 .. 3) {
        my $client = client();

        $client->request('GET', '/v1/models', undef, Connection => 'close',
                         Authorization => 'Bearer sk-alice');
        Test::More::like($client->read_all, qr/^HTTP\S+ 200/, 'an answer');
    }

    my $log = error_log();

    for my $cure (sort keys %cures) {
        my $n = () = $log =~ /\[warn\] .*clawd: .*\Q$cure\E/g;

        Test::More::is($n, $wanted{ $cures{$cure} } ? 1 : 0,
                       "$cures{$cure}: how often");
    }
}

run_tests();

__DATA__

=== all of them
--- http_config eval
"$::bare upstream box { server 127.0.0.1:\$TEST_NGINX_UPSTREAM_PORT; }"
--- config eval
main::location('box', 'client_max_body_size 1m;')
--- init
main::said(qw(proxy_http_version Connection Host proxy_read_timeout X-Accel
              client_max_body_size));
--- request
GET /v1/models



=== none with clawd_proxy.conf
--- http_config eval: main::http()
--- config eval
main::location('127.0.0.1:$TEST_NGINX_UPSTREAM_PORT',
               'include ' . main::proxy_conf() . ';')
--- init
main::said();
--- request
GET /v1/models



=== those that are left
--- http_config eval
"$::bare upstream box { server 127.0.0.1:\$TEST_NGINX_UPSTREAM_PORT; }"
--- config eval
main::location('box', 'proxy_http_version 1.1; proxy_read_timeout 61s; '
    . 'proxy_set_header Connection ""; client_max_body_size 2m;')
--- init
main::said(qw(Host X-Accel));
--- request
GET /v1/models



=== a host by its address is no name of a block
--- http_config eval: $::bare
--- config eval
main::location('127.0.0.1:$TEST_NGINX_UPSTREAM_PORT',
    'proxy_http_version 1.1; proxy_read_timeout 600s; '
    . 'proxy_set_header Connection ""; client_max_body_size 2m;')
--- init
main::said(qw(X-Accel));
--- request
GET /v1/models



=== two locations: each setting is named once for both
--- http_config eval: $::bare
--- config eval
$::both . $::both =~ s/location /location \/api/r
--- init
main::client()->request('GET', '/api/tags', undef,
                        Authorization => 'Bearer sk-alice');
main::said(qw(proxy_http_version Connection proxy_read_timeout X-Accel
              client_max_body_size));
--- request eval: ["GET /api/tags", "GET /v1/models"]



=== a request that is refused says nothing
--- http_config eval: $::bare
--- config eval
main::location('127.0.0.1:$TEST_NGINX_UPSTREAM_PORT', '')
--- request
GET /v1/models
--- more_headers
X-Other: y
--- error_code: 401
--- no_error_log
[warn]
[error]



=== a location without the gate says nothing
--- http_config eval: $::bare
--- config
location / { proxy_pass http://127.0.0.1:$TEST_NGINX_UPSTREAM_PORT; }
--- request
GET /v1/models
--- no_error_log
[warn]
[error]
