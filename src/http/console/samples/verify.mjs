// For ENDPOINT. npm install standardwebhooks
import { Webhook } from "standardwebhooks";

// Returns the payload, or throws WebhookVerificationError. `body` is the text as it came.
export const verified = (body, headers) => new Webhook(process.env.WEBHOOK_SECRET).verify(body, headers);
