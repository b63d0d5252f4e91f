# Names of models: one canonical form for each, wire.md D, C 37-38, 46-47, 160.

use strict;
use warnings;

use Test::Nginx::Socket 'no_plan';
use lib 't/lib';
use Clawd::Gate;
use Clawd::Client;

gate_default(http_config => gate_http(
    'log_format model escape=json \'{"model":"$clawd_model"}\';',
    'access_log logs/access.log model;'));
no_shuffle();
run_tests();


# Pairs of a JSON string and the one that goes upstream in its place.

sub sent_as {
    my ($uri, @pairs) = @_;

    while (my ($name, $sent) = splice @pairs, 0, 2) {
        my $client = client();
        my $seen = () = upstream()->requests;

        $client->request('POST', $uri, "{\"a\":1, \"model\": $name ,\"b\":2}",
                         Authorization => 'Bearer sk-alice',
                         Connection => 'close');
        Test::More::like($client->read_all // '', qr{\AHTTP/1\.1 200 },
                         "$name passes");

        my @requests = upstream()->requests;
        my $want = "{\"a\":1, \"model\": $sent ,\"b\":2}";

        Test::More::is(@requests - $seen, 1, "$name: one request upstream");
        Test::More::is($requests[-1]{body}, $want, "$name goes as $sent");
        Test::More::is($requests[-1]{headers}{'content-length'}, length $want,
                       "$name: its length");
    }
}

__DATA__

=== C37: no model, OpenAI
--- request eval
["POST /v1/chat/completions\n{}", "POST /v1/completions\n{\"prompt\":\"x\"}",
 "POST /v1/embeddings\n{\"input\":[]}", "POST /v1/responses\n{\"a\":{}}",
 "POST /v1/chat/completions\n{\"messages\":[{\"model\":\"m\"}]}"]
--- refused: openai 400 invalid_json model
--- message: the model is missing or its name is not valid: model



=== C37: no model, Anthropic
--- request
POST /v1/messages
{"messages":[]}
--- refused: anthropic 400
--- message: the model is missing or its name is not valid: model



=== C37: no model, Ollama
--- request eval
["POST /api/chat\n{}", "POST /api/generate\n{\"name\":\"m\"}",
 "POST /api/embed\n{\"input\":\"x\"}"]
--- refused: ollama 400
--- message: the model is missing or its name is not valid: model



=== C38: a model that is no name
--- request eval
[map { "POST /v1/chat/completions\n{\"model\":$_}" }
     '5', 'null', 'true', '["m"]', '{"a":"m"}', '""', '" "', '"   \t\n"',
     '":latest"', '":local"', '"library/"', '"http://"']
--- refused: openai 400 invalid_json model



=== C46: control characters and quotes in the model
--- request eval
[map { "POST /v1/chat/completions\n{\"model\":\"$_\"}" }
     'm\u0000', '\u0000', 'm\nx', 'm\u001b[2J', 'a b', 'm\"x', 'm\\\\x', 'm{}',
     'm\u007f', 'm%00', 'm$a', 'm*', 'm;x', 'm?', "m'x", 'm,n', 'm<b>']
--- refused: openai 400 invalid_json model



=== C47: characters beyond ASCII in the model
--- request eval
[map { "POST /v1/chat/completions\n{\"model\":\"$_\"}" }
     "m\xc3\xa9", 'm\u00e9', "m\xff", 'm\ud800', 'm\ud83d\ude00', "\xc5\xbfm",
     '\u212am']
--- refused: openai 400 invalid_json model



=== D69: other writings of a name are sent as the shortest
--- init
main::sent_as('/v1/chat/completions',
    '"llama3.2"' => '"llama3.2"',
    '"registry.ollama.ai/library/llama3.2"' => '"llama3.2"',
    '"http://registry.ollama.ai/library/llama3.2:latest"' =>
        '"llama3.2:latest"',
    '"https://registry.ollama.ai/library/llama3.2"' => '"llama3.2"',
    '"ftp://Registry.Ollama.AI/Library/llama3.2"' => '"llama3.2"',
    '"library/llama3.2"' => '"llama3.2"',
    '"registry.ollama.ai/someone/m:q4"' => '"someone/m:q4"',
    '"someone/library/m"' => '"someone/library/m"',
    '"library/someone/m"' => '"library/someone/m"');
--- request
GET /v1/models
--- error_code: 200



=== D69: escapes in a name
--- init
main::sent_as('/api/chat',
    '"lla\u006da3.2"' => '"lla\u006da3.2"',
    '"\u006c\u0069brary/m"' => '"m"',
    '"library\/m"' => '"m"');
--- request
GET /v1/models
--- error_code: 200



=== D70: surrounding space
--- init
main::sent_as('/api/generate', '" llama3.2 "' => '"llama3.2"',
              '"\tm\n"' => '"m"', '"  m:8b"' => '"m:8b"');
--- request
GET /v1/models
--- error_code: 200



=== D71: models that are not run here
--- request eval
[map { "POST /v1/chat/completions\n{\"model\":\"$_\"}" }
     'x:cloud', 'x:20b-cloud', 'X:CLOUD', 'x:20b-Cloud', ' x:cloud ',
     'x:cl\u006fud', 'library/x:cloud', 'a/x:120b-cloud']
--- refused: openai 403 model_not_allowed model
--- message: this model is not allowed: model



=== D71: also not for an admin, in all families
--- request
POST /api/chat
{"model":"x:cloud"}
--- more_headers
Authorization: Bearer sk-root
--- refused: ollama 403



=== D71: Anthropic
--- request
POST /v1/messages
{"model":"x:20b-cloud"}
--- refused: anthropic 403



=== D71: a cloud in the name is only a name
--- init
main::sent_as('/v1/chat/completions', '"my-cloud"' => '"my-cloud"',
              '"cloud"' => '"cloud"', '"x-cloud:8b"' => '"x-cloud:8b"',
              '"x:cloudy"' => '"x:cloudy"');
--- request
GET /v1/models
--- error_code: 200



=== D72: what says that it runs here
--- init
main::sent_as('/v1/chat/completions', '"x:local"' => '"x"',
              '"x:8b:local"' => '"x:8b"', '"x:LOCAL"' => '"x"');
--- request
GET /v1/models
--- error_code: 200



=== D72: here and not here
--- request eval
[map { "POST /v1/chat/completions\n{\"model\":\"$_\"}" }
     'x:cloud:local', 'x:local:cloud', 'x:local:local', 'x:20b-cloud:local']
--- error_code_like eval
[('^40[03]$') x 4]
--- upstream_count: 0



=== D73: a name with a host of its own passes, and so does its 404
--- upstream eval
main::reply(404, '{"error":"model \"hf.co/org/m:Q4_K_M\" not found"}')
--- request
POST /api/chat
{"model":"hf.co/org/m:Q4_K_M"}
--- error_code: 404
--- response_body chomp
{"error":"model \"hf.co/org/m:Q4_K_M\" not found"}
--- upstream_count: 1
--- upstream_body chomp
{"model":"hf.co/org/m:Q4_K_M"}



=== D76: an unknown model's 404 gets the caller's shape
--- upstream eval
main::reply(404, '{"error":"model \"x\" not found"}')
--- request
POST /v1/messages
{"model":"x"}
--- error_code: 404
--- response_body_like chomp
^\{"type":"error","error":\{"type":"not_found_error","message":"model \\"x\\" not found"\},"request_id":"[0-9a-f]+"\}\z
--- upstream_count: 1



=== D77: what the model cannot do
--- upstream eval
main::reply(400, '{"error":{"message":"\"e\" does not support chat",'
                 . '"type":"api_error","param":null,"code":null}}')
--- request
POST /v1/chat/completions
{"model":"e"}
--- error_code: 400
--- response_body chomp
{"error":{"message":"\"e\" does not support chat","type":"api_error","param":null,"code":null}}



=== D74: the name in the answer is the upstream's
--- upstream eval
main::reply(200, '{"model":"real","choices":[]}')
--- request
POST /v1/chat/completions
{"model":"alias"}
--- response_body chomp
{"model":"real","choices":[]}



=== D69: one label for all writings
--- request eval
[map { "POST /v1/chat/completions\n{\"model\":\"$_\"}" }
     'Llama3.2:LATEST', 'llama3.2', ' library/LLAMA3.2:latest',
     'http://registry.ollama.ai/library/llama3.2', 'llama3.2:local']
--- error_code eval
[(200) x 5]
--- access_log
{"model":"llama3.2"}



=== D69: another tag is another model
--- request
POST /v1/chat/completions
{"model":"Qwen3:8B"}
--- access_log
{"model":"qwen3:8b"}



=== 160: nothing of a refused name gets into the log
--- request eval
["POST /v1/chat/completions\n{\"model\":\"evil\\nline \\u001b[31m\"}",
 "POST /v1/chat/completions\n{\"model\":\"\\\",\\\"x\\\":\\\"evil\"}"]
--- error_code eval
[400, 400]
--- no_access_log
evil
--- access_log
{"model":""}



=== 160: a name of any length
--- request eval
[map { "POST /v1/chat/completions\n{\"model\":\"" . 'm' x $_ . '"}' }
     1000, 100000]
--- refused: openai 400 invalid_json model
