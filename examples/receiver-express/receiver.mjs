// A webhook receiver in JavaScript, with Express and the Standard Webhooks library.
//
//   npm ci
//   WEBHOOK_SECRET=whsec_… node receiver.mjs
//
// It verifies the signature, handles each webhook-id once, and answers 204.

import express from 'express';
import { Webhook } from 'standardwebhooks';

const webhook = new Webhook(process.env.WEBHOOK_SECRET);

// Ids of handled webhooks. A real receiver keeps them in its database for a week or longer: it inserts the id, under a
// unique index, in the transaction that does the work.
const handled = new Set();

const app = express();

// The signature covers the body byte for byte, so the body is read raw: no express.json() here.
app.post('/', express.raw({ type: '*/*', limit: '1mb' }), (request, response) => {
  let event;
  try {
    event = webhook.verify(request.body, request.headers);
  } catch {
    return response.sendStatus(401);
  }
  const id = request.headers['webhook-id'];
  if (handled.has(id)) {
    console.log(`duplicate ${id}`);
  } else {
    // The work comes here. If it fails, answer 500 and keep no id: Hookgate sends the webhook again.
    console.log(`received ${id} ${JSON.stringify(event.type)} ${JSON.stringify(event.data)}`);
    handled.add(id);
  }
  response.sendStatus(204);
});

const server = app.listen(Number(process.env.PORT ?? 9000), '127.0.0.1', () => {
  console.log(`listening on http://127.0.0.1:${server.address().port}`);
});
