const answer = await fetch("BASE/api/events", {
  method: "POST",
  headers: { "X-API-Key": process.env.HOOKGATE_API_KEY, "Content-Type": "application/json" },
  body: JSON.stringify({ type: "user.login", account_id: "account-1", payload: { user: "ada" } }),
});
if (!answer.ok) throw new Error(await answer.text());
console.log((await answer.json()).id);
