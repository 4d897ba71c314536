import { useParams } from "@remix-run/react";

export default function Hello() {
  return <p>{`Hello, ${useParams().name}`}</p>;
}
