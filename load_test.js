// Hookgate under load, with thresholds that fail the run.
//
//   BASE_URL   where Hookgate answers           (http://127.0.0.1:3000)
//   API_KEY    a tenant's key; required. Its organisation needs a rate limit above the load:
//              hookgate org create --name load --rate-limit-per-minute 100000000
//   SCENARIO   ramp: up to VUS users, each posting as fast as it is answered
//              rate: RATE events a second, whatever the answers take      (ramp)
//   VUS        users at the top of the ramp                               (100)
//   RATE       requests a second of the rate scenario                     (500)
//   DURATION   seconds at the top                                         (30)
//
//   k6 run -e API_KEY=hg_… load_test.js

import http from 'k6/http';
import { check } from 'k6';

const baseUrl = __ENV.BASE_URL || 'http://127.0.0.1:3000';
const apiKey = __ENV.API_KEY;
const scenario = __ENV.SCENARIO || 'ramp';
const vus = Number(__ENV.VUS || 100);
const rate = Number(__ENV.RATE || 500);
const duration = Number(__ENV.DURATION || 30);

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

const params = { headers: { 'Content-Type': 'application/json', 'X-API-Key': apiKey } };

export function setup() {
  if (!apiKey) {
    throw new Error('API_KEY is not set: see the head of load_test.js');
  }
  const ready = http.get(`${baseUrl}/health/ready`);
  if (ready.status !== 200) {
    throw new Error(`${baseUrl} is not ready: ${ready.status} ${ready.body}`);
  }
}

export default function () {
  const body = JSON.stringify({
    type: 'load.test',
    payload: { vu: __VU, iteration: __ITER, text: 'a payload of about a hundred bytes, as many events have' },
  });
  const response = http.post(`${baseUrl}/api/events`, body, params);
  check(response, { 'answered 202': (r) => r.status === 202 });
}
