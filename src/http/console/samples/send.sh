curl -i BASE/api/events \
  -H "X-API-Key: $HOOKGATE_API_KEY" \
  -H 'Content-Type: application/json' \
  -d '{"type":"user.login","account_id":"acme","payload":{"user":"ada"}}'
