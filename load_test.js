// A k6 load test for Hookgate. A run fails when it misses a threshold below.
//
// It needs an API key whose organisation may post faster than the test does. Create both with
//
//   hookgate org create --name load-test --rate-limit-per-minute 100000000
//   hookgate key create --org ORGANISATION --name load-test
//
// with the server's settings (DATABASE_URL or DATA_DIR), then run
//
//   k6 run -e API_KEY=hg_… load_test.js
//
// Variables, with their defaults:
//
//   API_KEY    the key; required
//   BASE_URL   the server                                                   http://127.0.0.1:3000
//   SCENARIO   ramp: up to VUS users, each posts again when it is answered  ramp
//              rate: RATE events per second, however long answers take
//   VUS        users at the top of the ramp                                 100
//   RATE       events per second of the rate scenario                       500
//   DURATION   seconds at full load                                         30

import http from 'k6/http';
import { check } from 'k6';
import exec from 'k6/execution';

const baseUrl = __ENV.BASE_URL || 'http://127.0.0.1:3000';
const apiKey = __ENV.API_KEY;
const scenario = __ENV.SCENARIO || 'ramp';
const vus = Number(__ENV.VUS || 100);
const rate = Number(__ENV.RATE || 500);
const duration = Number(__ENV.DURATION || 30);

// Users of the ramp post as fast as they are answered. One of them never gets past this rate.
const EVENTS_PER_SECOND_PER_USER = 1000;

const scenarios = {
  ramp: {
    executor: 'ramping-vus',
    startVUs: 1,
    stages: [
      { duration: `${Math.ceil(duration / 3)}s`, target: vus },
      { duration: `${duration}s`, target: vus },
      { duration: '2s', target: 0 },
    ],
    gracefulRampDown: '5s',
  },
  rate: {
    executor: 'constant-arrival-rate',
    rate,
    timeUnit: '1s',
    duration: `${duration}s`,
    preAllocatedVUs: vus,
    maxVUs: vus,
  },
};

const thresholds = {
  http_req_duration: ['p(95)<100'],
  http_req_failed: ['rate<0.01'],
  checks: ['rate>0.99'],
};
if (scenario === 'rate') {
  thresholds.dropped_iterations = ['count==0'];
}

export const options = { scenarios: { [scenario]: scenarios[scenario] }, thresholds };

const headers = { 'Content-Type': 'application/json', 'X-API-Key': apiKey };

const COMMANDS = [
  'hookgate org create --name load-test --rate-limit-per-minute 100000000',
  'hookgate key create --org ORGANISATION --name load-test',
];

// Stops the run before it starts, with the commands that help.
export function setup() {
  if (!apiKey) {
    stop('API_KEY is not set. Create an organisation and a key', COMMANDS);
  }
  const ready = http.get(`${baseUrl}/health/ready`);
  if (ready.status !== 200) {
    stop(`${baseUrl} is not ready: ${ready.status} ${ready.body || ready.error}`);
  }
  const org = http.get(`${baseUrl}/api/org`, { headers });
  if (org.status !== 200) {
    stop(`API_KEY is not accepted: ${org.status} ${org.body}`);
  }
  const limit = org.json('limits.events_per_minute');
  const needed = 60 * (scenario === 'rate' ? rate : vus * EVENTS_PER_SECOND_PER_USER);
  if (limit < needed) {
    stop(
      `the organisation may post ${limit} events per minute; this test posts up to ${needed}, ` +
        'and most answers would be 429. Create an organisation with a higher limit and a key for it',
      COMMANDS,
    );
  }
}

function stop(reason, commands = []) {
  // One line each: k6 escapes line breaks where its output is no terminal.
  commands.forEach((command) => console.error(command));
  exec.test.abort(reason + (commands.length ? ' with the commands above' : ''));
}

export default function () {
  const body = JSON.stringify({
    type: 'load.test',
    payload: { vu: __VU, iteration: __ITER, text: 'about a hundred bytes, like the payload of many events' },
  });
  const response = http.post(`${baseUrl}/api/events`, body, { headers });
  check(response, { 'answered 202': (r) => r.status === 202 });
}
