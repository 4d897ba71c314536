import { createFileRoute } from "@tanstack/react-router";
import { createServerFn } from "@tanstack/react-start";

const EDITION = "first edition";

const greeting = createServerFn({ method: "GET" }).handler(() => process.env.GREETING ?? "");

export const Route = createFileRoute("/")({
  loader: () => greeting(),
  component: () => <p>{`${EDITION}, ${Route.useLoaderData()}`}</p>,
});
