curl -i BASE/api/events \
  -H "X-API-Key: $HOOKGATE_API_KEY" \
  -H 'Content-Type: application/json' \
  -d '{"type":"user.login","account_id":"account-1","payload":{"user":"ada"}}'
