-- Takes ARGV[1] microseconds' worth of tokens from the bucket KEYS[1], which holds
-- ARGV[2] microseconds' worth. The key's value is the time at which the bucket is full, in
-- microseconds by this server's clock; a missing key is a full bucket.
-- Returns whether they were taken and in how many microseconds the bucket is full.
local cost, capacity = tonumber(ARGV[1]), tonumber(ARGV[2])
local t = redis.call('TIME')
local now = t[1] * 1000000 + t[2]
local full_in = tonumber(redis.call('GET', KEYS[1]) or now) - now
-- A clock that was set back, or a limit that was lowered, must not lock a bucket for longer than its refill.
full_in = math.max(0, math.min(full_in, capacity))
-- One microsecond of slack for rounding.
if full_in + cost > capacity + 1 then
  return {0, string.format('%.0f', full_in)}
end
full_in = full_in + cost
if cost > 0 then
  redis.call('SET', KEYS[1], string.format('%.0f', now + full_in), 'PX', string.format('%.0f', math.ceil(full_in / 1000) + 1))
end
return {1, string.format('%.0f', full_in)}
