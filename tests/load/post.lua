-- For wrk: posts an event with a payload of 100 bytes. The API key comes from the environment; with DEDUP_IDS set, each
-- event has a dedup_id of its own.
--   API_KEY=hg_… wrk -t2 -c64 -d10s --latency -s tests/load/post.lua http://127.0.0.1:3000/api/events
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
wrk.headers["X-API-Key"] = os.getenv("API_KEY")
local event = '{"type":"bench.event","payload":"' .. string.rep("x", 98) .. '"'
wrk.body = event .. "}"

if os.getenv("DEDUP_IDS") then
    local number, prefix = 0, nil
    -- Each thread of wrk runs this script by itself.
    function init(args)
        prefix = string.format("%d-%s", os.time(), tostring({}):match("0x(%x+)"))
    end
    function request()
        number = number + 1
        return wrk.format(nil, nil, nil, event .. ',"dedup_id":"' .. prefix .. "-" .. number .. '"}')
    end
end
