/*
 * One call of a real Node client.  The argument is JSON: what to call, where
 * and with which token.  Prints JSON: what the client returned or threw.
 */

'use strict';

const OpenAI = require('openai');
const { Ollama } = require('ollama');

const job = JSON.parse(process.argv[2]);
const question = [{ role: 'user', content: job.question }];


function openai() {
    return new OpenAI({ baseURL: `${job.url}/v1`, apiKey: job.token,
                        maxRetries: 0 });
}


function ollama() {
    return new Ollama({ host: job.url,
                        headers: { Authorization: `Bearer ${job.token}` } });
}


const calls = {

    async openaiChat() {
        const reply = await openai().chat.completions.create(
            { model: job.model, messages: question, temperature: 0,
              max_tokens: job.limit });

        return { text: reply.choices[0].message.content,
                 prompt: reply.usage.prompt_tokens,
                 completion: reply.usage.completion_tokens,
                 id: reply._request_id };
    },

    async openaiStream() {
        const stream = await openai().chat.completions.create(
            { model: job.model, messages: question, temperature: 0,
              max_tokens: job.limit, stream: true,
              ...(job.usage && { stream_options: { include_usage: true } }) });
        const result = { text: '', usages: 0, empty: 0 };

        for await (const chunk of stream) {
            result.text += chunk.choices[0]?.delta?.content ?? '';
            result.empty += chunk.choices.length === 0;
            if (chunk.usage) {
                result.usages += 1;
                result.prompt = chunk.usage.prompt_tokens;
                result.completion = chunk.usage.completion_tokens;
            }
            say('chunk');
        }

        return result;
    },

    async openaiResponses() {
        const stream = await openai().responses.create(
            { model: job.model, input: job.question, stream: true,
              max_output_tokens: job.limit, temperature: 0 });
        const result = { text: '' };

        for await (const event of stream) {
            result.text += event.type === 'response.output_text.delta'
                ? event.delta : '';
            if (event.type === 'response.completed') {
                result.prompt = event.response.usage.input_tokens;
                result.completion = event.response.usage.output_tokens;
            }
        }

        return result;
    },

    async ollamaChat() {
        const reply = await ollama().chat(
            { model: job.model, messages: question,
              options: { num_predict: job.limit, temperature: 0 } });

        return { text: reply.message.content,
                 prompt: reply.prompt_eval_count,
                 completion: reply.eval_count };
    },

    async ollamaStream() {
        const stream = await ollama().chat(
            { model: job.model, messages: question, stream: true,
              options: { num_predict: job.limit, temperature: 0 } });
        const result = { text: '' };

        for await (const part of stream) {
            result.text += part.message.content;
            result.prompt = part.prompt_eval_count;
            result.completion = part.eval_count;
            say('chunk');
        }

        return result;
    },

    async ollamaGenerate() {
        const reply = await ollama().generate(
            { model: job.model, prompt: job.question,
              options: { num_predict: job.limit, temperature: 0 } });

        return { text: reply.response, prompt: reply.prompt_eval_count,
                 completion: reply.eval_count };
    },
};


function say(what, fields) {
    console.log(JSON.stringify({ what, ...fields }));
}


calls[job.call]().then(
    (result) => say('result', result),
    (error) => say('error', { name: error.constructor.name,
                              message: error.message, type: error.type,
                              code: error.code, status: error.status
                                  ?? error.status_code }));
