-- For wrk: posts an event with a payload of 100 bytes. The API key comes from the environment.
--   API_KEY=hg_… wrk -t2 -c64 -d10s --latency -s tests/load/post.lua http://127.0.0.1:3000/api/events
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
wrk.headers["X-API-Key"] = os.getenv("API_KEY")
wrk.body = '{"type":"bench.event","payload":"' .. string.rep("x", 98) .. '"}'
