# The page itself: methods, formats, and what the configuration may say.

use strict;
use warnings;

use Test::Nginx::Socket 'no_plan';

repeat_each(2);
no_shuffle();
run_tests();

__DATA__

=== TEST 1: Prometheus text, before anything was counted
--- http_config
clawd_zone clawd:1m;
--- config
location = /metrics { clawd_metrics; }
--- request
GET /metrics
--- response_headers
Content-Type: text/plain; version=0.0.4; charset=utf-8
Cache-Control: no-store
--- response_body_like eval
qr/\A\#\ HELP\ clawdbot_http_request_duration_seconds\ [^\n]+\n
   \#\ TYPE\ clawdbot_http_request_duration_seconds\ histogram\n
   .*
   ^\#\ TYPE\ clawdbot_model_request_total\ counter\n
   clawdbot_model_request_total\{model="other"\}\ 0\n
   .*
   ^clawdbot_nginx_connections\{state="active"\}\ 1\n
   .*
   ^clawdbot_zone_free_bytes\ \d{6,7}\n
   .*
   ^clawdbot_zone_size_bytes\ 1048576\n
   .*
   ^clawdbot_build_info\{version="[\d.]+",nginx="[\d.]+"\}\ 1\n\z/msx
--- no_error_log
[error]



=== TEST 2: OpenMetrics for those who prefer it
--- http_config
clawd_zone clawd:1m;
--- config
location = /metrics { clawd_metrics; }
--- request
GET /metrics
--- more_headers
Accept: application/openmetrics-text;version=1.0.0;q=0.5,text/plain;q=0.2
--- response_headers
Content-Type: application/openmetrics-text; version=1.0.0; charset=utf-8
--- response_body_like eval
qr/^\#\ TYPE\ clawdbot_model_request\ counter\n
   clawdbot_model_request_total\{model="other"\}\ 0\n
   .*
   \n\#\ EOF\n\z/msx



=== TEST 3: plain text for those who do not care
--- http_config
clawd_zone clawd:1m;
--- config
location = /metrics { clawd_metrics; }
--- request
GET /metrics
--- more_headers
Accept: */*
--- response_headers
Content-Type: text/plain; version=0.0.4; charset=utf-8
--- response_body_unlike
# EOF



=== TEST 4: HEAD has the length and no body
--- http_config
clawd_zone clawd:1m;
--- config
location = /metrics { clawd_metrics; }
--- request
HEAD /metrics
--- response_headers_like
Content-Length: \d{4,}
--- response_body



=== TEST 5: other methods
--- http_config
clawd_zone clawd:1m;
--- config
location = /metrics { clawd_metrics; }
--- request eval
["POST /metrics\na=b", "PUT /metrics\na=b", "DELETE /metrics",
 "OPTIONS /metrics"]
--- error_code eval
[405, 405, 405, 405]



=== TEST 6: a body that nobody asked for
--- http_config
clawd_zone clawd:1m;
--- config
location = /metrics { clawd_metrics; }
--- pipelined_requests eval
["GET /metrics\nbody", "GET /metrics"]
--- error_code eval
[200, 200]
--- no_error_log
[error]



=== TEST 7: the charset is said once
--- http_config
clawd_zone clawd:1m;
charset koi8-r;
--- config
location = /metrics { clawd_metrics; }
--- request
GET /metrics
--- response_headers
Content-Type: text/plain; version=0.0.4; charset=utf-8



=== TEST 8: access rules hold
--- http_config
clawd_zone clawd:1m;
--- config
location = /metrics { deny all; clawd_metrics; }
--- request
GET /metrics
--- error_code: 403
--- error_log
access forbidden by rule



=== TEST 9: no zone
--- config
location = /metrics { clawd_metrics; }
--- must_die
--- error_log
"clawd_metrics" needs a shared zone



=== TEST 10: a zone without a size
--- http_config
clawd_zone clawd;
--- config
--- must_die
--- error_log
invalid zone "clawd": name:size is expected



=== TEST 11: a zone without a name
--- http_config
clawd_zone :1m;
--- config
--- must_die
--- error_log
invalid zone ":1m": name:size is expected



=== TEST 12: a size that is none
--- http_config
clawd_zone clawd:big;
--- config
--- must_die
--- error_log
invalid zone size "clawd:big"



=== TEST 13: a zone that is too small
--- http_config
clawd_zone clawd:32k;
--- config
--- must_die
--- error_log
zone "clawd:32k" is too small: at least 256k is needed



=== TEST 14: two zones
--- http_config
clawd_zone clawd:1m;
clawd_zone clawd2:1m;
--- config
--- must_die
--- error_log
"clawd_zone" directive is duplicate



=== TEST 15: the name of another module's zone
--- http_config
limit_req_zone $binary_remote_addr zone=clawd:1m rate=1r/s;
clawd_zone clawd:1m;
--- config
--- must_die
--- error_log
the shared memory zone "clawd" is already declared for a different use



=== TEST 16: the smallest zone serves
--- http_config
clawd_zone clawd:256k;
--- config
location = /metrics { clawd_metrics; }
--- request
GET /metrics
--- response_body_like
clawdbot_zone_free_bytes \d+
--- no_error_log
[error]
