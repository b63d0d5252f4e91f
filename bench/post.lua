-- The request of the benchmark, made once, and its figures as a line of JSON.
--
--     wrk -s post.lua URL -- BODY-FILE TOKEN

function init(args)
    local file = assert(io.open(args[1], "rb"))

    wrk.method = "POST"
    wrk.body = file:read("*a")
    wrk.headers["Accept"] = "application/json"
    wrk.headers["Authorization"] = "Bearer " .. args[2]
    wrk.headers["Content-Type"] = "application/json"
    wrk.headers["User-Agent"] = "bench"

    file:close()
end


function done(summary, latency)
    local e = summary.errors

    io.write(string.format(
        'JSON {"requests": %d, "errors": %d, "seconds": %.3f, '
            .. '"p50_us": %d, "p99_us": %d}\n',
        summary.requests,
        e.connect + e.read + e.write + e.status + e.timeout,
        summary.duration / 1e6, latency:percentile(50),
        latency:percentile(99)))
end
