-- One request after another for paths of a list: uniformly random, by Zipf's law, or each once.
-- Arguments: the list's file, and uniform, zipf:<exponent> or once.

local ffi = require("ffi")
ffi.cdef("typedef struct { long seconds, micros; } now_t; int gettimeofday(now_t *, void *);")

local UNFINISHED = "GET / HTTP/1.1\r\n" -- a server waits for the rest, and has nothing to do

local requests, weights = {}, nil
local once, at, began = false, 0, 0
local thread

local function now()
    local time = ffi.new("now_t")
    ffi.C.gettimeofday(time, nil)
    return tonumber(time.seconds) * 1e6 + tonumber(time.micros)
end

function setup(the)
    thread = the
end

function init(args)
    for path in io.lines(args[1]) do
        requests[#requests + 1] = wrk.format("GET", path)
    end
    math.randomseed(7)
    local exponent = args[2]:match("^zipf:(.+)$")
    once = args[2] == "once"
    if exponent then
        weights = {}
        local sum = 0
        for rank = 1, #requests do
            sum = sum + rank ^ -tonumber(exponent)
            weights[rank] = sum
        end
        for rank = #requests, 2, -1 do -- which ones are asked for often has nothing to do with their order
            local other = math.random(rank)
            requests[rank], requests[other] = requests[other], requests[rank]
        end
    end
end

local function ranked()
    local wanted = math.random() * weights[#weights]
    local low, high = 1, #weights
    while low < high do
        local middle = math.floor((low + high) / 2)
        if weights[middle] < wanted then low = middle + 1 else high = middle end
    end
    return low
end

function request()
    if not once then
        return requests[weights and ranked() or math.random(#requests)]
    end
    at = at + 1
    if at == 1 then began = now() end
    if at == #requests then
        took = now() - began
        -- The only way to end before the time is over; one signal may come too early.
        io.popen("exec 2>/dev/null; for i in 1 2 3 4 5; do kill -INT $PPID; sleep 0.1; done")
    end
    return requests[at] or UNFINISHED
end

function done()
    if thread:get("took") then io.write(string.format("each once in %d us\n", thread:get("took"))) end
end
