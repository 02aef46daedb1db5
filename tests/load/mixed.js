// A k6 load test that writes and reads: batches of events of many accounts, and summaries of these accounts. A run
// fails when it misses a threshold below.
//
//   k6 run -e API_KEY=hg_… tests/load/mixed.js
//
// The organisation of the key must be allowed what LOAD posts: `hookgate org create --rate-limit-per-minute 30000`.
// Variables, with their defaults:
//
//   API_KEY    the key; required. Its scopes include events:write and events:read
//   BASE_URL   the server                                                            http://127.0.0.1:3000
//   LOAD       normal: 10 batches of 10 events and 5 summaries a second              normal
//              peak:   35 batches of 10 events and 15 summaries a second
//   DURATION   seconds                                                               60

import http from 'k6/http';
import { check } from 'k6';
import exec from 'k6/execution';

const baseUrl = __ENV.BASE_URL || 'http://127.0.0.1:3000';
const apiKey = __ENV.API_KEY;
const load = __ENV.LOAD || 'normal';
const duration = Number(__ENV.DURATION || 60);

const LOADS = {
  normal: { batches: 10, summaries: 5 },
  peak: { batches: 35, summaries: 15 },
};
const EVENTS_PER_BATCH = 10;
const ACCOUNTS = 200;
const USERS_PER_ACCOUNT = 20;
const TYPES = ['page.viewed', 'user.login', 'order.created', 'order.paid', 'message.sent'];

if (!LOADS[load]) {
  throw new Error(`LOAD is ${load}; it must be ${Object.keys(LOADS).join(' or ')}`);
}

const constantRate = (exec, rate) => ({
  executor: 'constant-arrival-rate',
  exec,
  rate,
  timeUnit: '1s',
  duration: `${duration}s`,
  preAllocatedVUs: 20,
  maxVUs: 100,
});

export const options = {
  scenarios: {
    batches: constantRate('postBatch', LOADS[load].batches),
    summaries: constantRate('readSummary', LOADS[load].summaries),
  },
  summaryTrendStats: ['avg', 'med', 'p(95)', 'p(99)', 'max'],
  thresholds: {
    'http_req_duration{name:batch}': ['p(95)<100'],
    'http_req_duration{name:summary}': ['p(95)<100'],
    http_req_failed: ['rate<0.01'],
    checks: ['rate>0.99'],
    dropped_iterations: ['count==0'],
  },
};

const headers = { 'Content-Type': 'application/json', 'X-API-Key': apiKey };
const random = (below) => Math.floor(Math.random() * below);
// A few accounts have most of the events.
const account = () => `acct_${Math.floor(ACCOUNTS * Math.random() ** 3)}`;

function event() {
  const owner = account();
  return {
    type: TYPES[random(TYPES.length)],
    account_id: owner,
    user_id: `${owner}_user_${random(USERS_PER_ACCOUNT)}`,
    payload: { number: random(1000000), text: 'about a hundred bytes, like the payload of many events' },
  };
}

const batch = () => JSON.stringify(Array.from({ length: EVENTS_PER_BATCH }, event));

// Stops the run before it starts when no event is taken, or no summary is given.
export function setup() {
  if (!apiKey) {
    exec.test.abort('API_KEY is not set: hookgate key create --org ORGANISATION --name load-test');
  }
  const posted = http.post(`${baseUrl}/api/events/batch`, batch(), { headers });
  if (posted.status !== 202) {
    exec.test.abort(`${baseUrl} takes no events: ${posted.status} ${posted.body || posted.error}`);
  }
  const limit = http.get(`${baseUrl}/api/org`, { headers }).json('limits.events_per_minute');
  const needed = 60 * EVENTS_PER_BATCH * LOADS[load].batches;
  if (limit < needed) {
    exec.test.abort(
      `the organisation may post ${limit} events per minute, and LOAD=${load} posts ${needed}: ` +
        'hookgate org update ORGANISATION --rate-limit-per-minute 30000',
    );
  }
}

export function postBatch() {
  const response = http.post(`${baseUrl}/api/events/batch`, batch(), { headers, tags: { name: 'batch' } });
  check(response, { 'batch answered 202': (r) => r.status === 202 });
}

export function readSummary() {
  const window = Math.random() < 0.5 ? 'last_24h' : 'last_7d';
  const response = http.get(`${baseUrl}/api/accounts/${account()}/summary?window=${window}`, {
    headers,
    tags: { name: 'summary' },
    // An account may have no event yet.
    responseCallback: http.expectedStatuses(200, 404),
  });
  check(response, { 'summary answered 200 or 404': (r) => r.status === 200 || r.status === 404 });
}
