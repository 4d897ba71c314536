import { createFileRoute } from "@tanstack/react-router";

export const Route = createFileRoute("/hello/$name")({
  component: () => <p>{`Hello, ${Route.useParams().name}`}</p>,
});
