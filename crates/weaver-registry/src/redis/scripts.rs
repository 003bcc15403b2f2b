//! The scripts, one for each operation. All of them begin with [`PRELUDE`].
//!
//! | key | what |
//! |---|---|
//! | `info` | hash: agent to type, capabilities and the whole as JSON |
//! | `ids` | sorted set of the agents, by id |
//! | `beats` | sorted set: agent to when its heartbeat is late, in milliseconds; those that have not expired |
//! | `late` | sorted set: agent to when it expired |
//! | `said` | hash: agent to status and last heartbeat |
//! | `caps` | sorted set of `capability:agent`, by name |
//! | `counts` | hash: agents by type (`t:`) and capability (`c:`), and the number of the last event |
//! | `events` | stream |
//!
//! A value in `info` has three lines: the type, the capabilities separated by unit separators, and
//! JSON, which the scripts do not read. Types and capabilities have no control characters.

pub(super) const KEYS: [&str; 8] = [
    "info", "ids", "beats", "late", "said", "caps", "counts", "events",
];

/// `ARGV[1]` events that are kept, `ARGV[2]` the life of the keys in milliseconds.
const PRELUDE: &str = r"
local INFO, IDS, BEATS, LATE, SAID, CAPS, COUNTS, EVENTS = unpack(KEYS)
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

local function parts(value)
  local first = string.find(value, '\n', 1, true)
  local second = string.find(value, '\n', first + 1, true)
  local caps = {}
  for cap in string.gmatch(string.sub(value, first + 1, second - 1), '[^\31]+') do
    caps[#caps + 1] = cap
  end
  return string.sub(value, 1, first - 1), caps
end

local function count(field, by)
  if redis.call('HINCRBY', COUNTS, field, by) <= 0 then redis.call('HDEL', COUNTS, field) end
end

local function tell(kind, agent, agent_type)
  local number = redis.call('HINCRBY', COUNTS, 'events', 1)
  redis.call('XADD', EVENTS, 'MAXLEN', '~', ARGV[1], '*', 'number', number, 'kind', kind,
    'agent', agent, 'type', agent_type, 'at', string.format('%.0f', now))
end

local function remove(agent)
  local value = redis.call('HGET', INFO, agent)
  if not value then return nil end
  local agent_type, caps = parts(value)
  for _, cap in ipairs(caps) do
    redis.call('ZREM', CAPS, cap .. ':' .. agent)
    count('c:' .. cap, -1)
  end
  count('t:' .. agent_type, -1)
  redis.call('HDEL', INFO, agent)
  redis.call('HDEL', SAID, agent)
  redis.call('ZREM', IDS, agent)
  redis.call('ZREM', BEATS, agent)
  redis.call('ZREM', LATE, agent)
  return agent_type
end

local function live()
  for _, key in ipairs(KEYS) do redis.call('PEXPIRE', key, ARGV[2]) end
end

local function said(agent, status)
  redis.call('HSET', SAID, agent, status .. ' ' .. string.format('%.0f', now))
end

-- What is known of agents, four values each: id, info, status and heartbeat, when late.
local function views(agents)
  local answer = { string.format('%.0f', now) }
  for _, agent in ipairs(agents) do
    answer[#answer + 1] = agent
    answer[#answer + 1] = redis.call('HGET', INFO, agent) or ''
    answer[#answer + 1] = redis.call('HGET', SAID, agent) or ''
    answer[#answer + 1] = redis.call('ZSCORE', BEATS, agent) or '0'
  end
  return answer
end
";

/// 3 agent, 4 type, 5 capabilities, 6 JSON before the time, 7 after it, 8 status, 9 heartbeat's life,
/// 10 most agents. Answers the time, or -1 if the registry is full.
const REGISTER: &str = r"
local agent, agent_type = ARGV[3], ARGV[4]
if redis.call('HEXISTS', INFO, agent) == 0 and redis.call('HLEN', INFO) >= tonumber(ARGV[10]) then
  return '-1'
end
remove(agent)
local at = string.format('%.0f', now)
local value = agent_type .. '\n' .. ARGV[5] .. '\n' .. ARGV[6] .. at .. ARGV[7]
redis.call('HSET', INFO, agent, value)
redis.call('ZADD', IDS, 0, agent)
redis.call('ZADD', BEATS, string.format('%.0f', now + ARGV[9]), agent)
said(agent, ARGV[8])
local _, caps = parts(value)
for _, cap in ipairs(caps) do
  redis.call('ZADD', CAPS, 0, cap .. ':' .. agent)
  count('c:' .. cap, 1)
end
count('t:' .. agent_type, 1)
tell('agent:registered', agent, agent_type)
live()
return at";

/// 3 agent. Answers whether it was there.
const UNREGISTER: &str = r"
local agent_type = remove(ARGV[3])
if not agent_type then return 0 end
tell('agent:unregistered', ARGV[3], agent_type)
return 1";

/// 3 agent, 4 status or nothing, 5 heartbeat's life. Answers whether it is registered.
const HEARTBEAT: &str = r"
local agent = ARGV[3]
local value = redis.call('HGET', INFO, agent)
if not value then return 0 end
local status = ARGV[4]
if status == '' then
  local before = redis.call('HGET', SAID, agent) or 'online'
  status = string.match(before, '^%a+') or 'online'
end
said(agent, status)
redis.call('ZADD', BEATS, string.format('%.0f', now + ARGV[5]), agent)
if redis.call('ZREM', LATE, agent) == 1 then tell('agent:registered', agent, (parts(value))) end
return 1";

/// 3 agent.
const GET: &str = r"
return views({ ARGV[3] })";

/// 3 whether all, 4 whether only those online, 5 how many, 6… capabilities.
const FIND: &str = r"
local found, seen = nil, {}
for at = 6, #ARGV do
  local cap = ARGV[at]
  local here = {}
  for _, member in ipairs(redis.call('ZRANGEBYLEX', CAPS, '[' .. cap .. ':', '(' .. cap .. ';')) do
    local agent = string.sub(member, #cap + 2)
    if ARGV[3] == '0' then
      seen[agent] = true
    elseif not found or found[agent] then
      here[agent] = true
    end
  end
  if ARGV[3] == '1' then found = here end
end
local agents = {}
for agent in pairs(found or seen) do agents[#agents + 1] = agent end
table.sort(agents)
local wanted = {}
for _, agent in ipairs(agents) do
  if #wanted >= tonumber(ARGV[5]) then break end
  if ARGV[4] == '0' or tonumber(redis.call('ZSCORE', BEATS, agent) or '0') > now then
    wanted[#wanted + 1] = agent
  end
end
return views(wanted)";

/// 3 after which agent, 4 how many.
const LIST: &str = r"
local from = ARGV[3] == '' and '-' or '(' .. ARGV[3]
return views(redis.call('ZRANGEBYLEX', IDS, from, '+', 'LIMIT', 0, ARGV[4]))";

/// Answers all agents, those online, and the counts.
const STATS: &str = r"
return {
  redis.call('HLEN', INFO),
  redis.call('ZCOUNT', BEATS, '(' .. string.format('%.0f', now), '+inf'),
  redis.call('HGETALL', COUNTS),
}";

/// 3 for how long those that have expired are remembered, 4 how many at most. Answers how many are
/// left to look at.
const SWEEP: &str = r"
local gone = redis.call('ZRANGEBYSCORE', BEATS, '-inf', string.format('%.0f', now), 'WITHSCORES', 'LIMIT', 0, ARGV[4])
for at = 1, #gone, 2 do
  local agent = gone[at]
  local value = redis.call('HGET', INFO, agent)
  redis.call('ZREM', BEATS, agent)
  if value then
    redis.call('ZADD', LATE, gone[at + 1], agent)
    tell('agent:expired', agent, (parts(value)))
  end
end
local old = redis.call('ZRANGEBYSCORE', LATE, '-inf', string.format('%.0f', now - ARGV[3]), 'LIMIT', 0, ARGV[4])
for _, agent in ipairs(old) do
  local agent_type = remove(agent)
  if agent_type then tell('agent:unregistered', agent, agent_type) else redis.call('ZREM', LATE, agent) end
end
live()
return (#gone / 2 >= tonumber(ARGV[4]) or #old >= tonumber(ARGV[4])) and 1 or 0";

/// All of them, known to a server by their hashes.
#[derive(Debug)]
pub(super) struct Scripts {
    pub(super) register: weaver_pool::Script,
    pub(super) unregister: weaver_pool::Script,
    pub(super) heartbeat: weaver_pool::Script,
    pub(super) get: weaver_pool::Script,
    pub(super) find: weaver_pool::Script,
    pub(super) list: weaver_pool::Script,
    pub(super) stats: weaver_pool::Script,
    pub(super) sweep: weaver_pool::Script,
}

impl Scripts {
    pub(super) fn new() -> Self {
        let script = |body| weaver_pool::Script::new(&format!("{PRELUDE}{body}"));
        Self {
            register: script(REGISTER),
            unregister: script(UNREGISTER),
            heartbeat: script(HEARTBEAT),
            get: script(GET),
            find: script(FIND),
            list: script(LIST),
            stats: script(STATS),
            sweep: script(SWEEP),
        }
    }
}
