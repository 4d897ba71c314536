// Express as CommonJS, on the port that its own guide takes.

const path = require("node:path");
const express = require("express");

const EDITION = "first edition";

const app = express();
app.use(express.json());
app.use(express.static(path.join(__dirname, "../public")));

const page = (words) => `<!doctype html><html lang="en"><title>Express</title><link rel="icon" href="/logo.svg"><p>${words}</p></html>`;

app.get("/", (request, response) => {
  response.send(page(`${EDITION}, ${process.env.GREETING}`));
});

app.get("/hello/:name", (request, response) => {
  response.send(page(`Hello, ${request.params.name}`));
});

app.post("/api/echo", (request, response) => {
  const { text } = request.body;
  response.json({ said: text, length: text.length });
});

app.listen(3000);
