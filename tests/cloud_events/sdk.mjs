// CloudEvents by the public SDK for JavaScript: posts some to a server, or reads those that it has sent.

import { readFileSync } from "node:fs";
import { createRequire } from "node:module";

const [, , place, command, ...rest] = process.argv;
const { CloudEvent, HTTP } = createRequire(`${place}/`)("cloudevents");

function event(number, data, more) {
  return new CloudEvent({
    id: `sdk-${number}`,
    source: "/tests/javascript",
    type: "invoice.paid",
    data,
    ...more,
  });
}

async function send(url, key, { headers, body }) {
  const answer = await fetch(url, { method: "POST", headers: { ...headers, "x-api-key": key }, body });
  if (!answer.ok) throw new Error(`${answer.status} ${await answer.text()}`);
  return answer.json();
}

async function post(url, key) {
  const [single, batch] = [`${url}/api/events`, `${url}/api/events/batch`];
  const full = { subject: "Grüße & Co", time: "2026-01-31T12:00:00.5Z", comexampleext: "ä 🪝" };
  // The SDK writes attributes into headers as they are, and fetch sends Latin-1 alone.
  const ascii = { ...full, subject: "Gruss", comexampleext: "a b", datacontenttype: "application/json" };
  // The SDK reads batches, but has nothing that writes one.
  const many = [4, 5].map((number) => event(number, { n: number }, {}));
  return {
    structured: await send(single, key, HTTP.structured(event(1, { n: 1.5 }, full))),
    binary: await send(single, key, HTTP.binary(event(2, { n: [2] }, ascii))),
    text: await send(single, key, HTTP.binary(event(3, "<a/>", { datacontenttype: "text/xml" }))),
    batch: await send(batch, key, {
      headers: { "content-type": "application/cloudevents-batch+json; charset=utf-8" },
      body: JSON.stringify(many),
    }),
    again: await send(single, key, HTTP.structured(event(2, { n: [2] }, ascii))),
  };
}

function read(file) {
  return JSON.parse(readFileSync(file, "utf8")).map((webhook) => {
    const { data, data_base64: encoded, ...attributes } = HTTP.toEvent(webhook).toJSON();
    return { attributes, data: encoded ? Buffer.from(encoded, "base64").toString() : data };
  });
}

console.log(JSON.stringify(await { post, read }[command](...rest)));
