-- A chat of BODY_BYTES bytes; the model is named last, so that all of it must be read. HEADERS adds fields, one a line.
local size = tonumber(os.getenv("BODY_BYTES"))
local head, tail = '{"messages":[{"role":"user","content":"', '"}],"model":"m-1"}'
local words = string.rep("Good things come to those who wait. ", math.ceil(size / 36))
wrk.method = "POST"
wrk.path = "/v1/chat/completions"
wrk.headers["Content-Type"] = "application/json"
for name, value in string.gmatch(os.getenv("HEADERS") or "", "([^:\n]+): ([^\n]+)") do
    wrk.headers[name] = value
end
wrk.body = head .. string.sub(words, 1, size - #head - #tail) .. tail
