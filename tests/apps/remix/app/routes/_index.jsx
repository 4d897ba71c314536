import { useLoaderData } from "@remix-run/react";

const EDITION = "first edition";

export const loader = () => ({ greeting: process.env.GREETING });

export default function Index() {
  const { greeting } = useLoaderData();
  return <p>{`${EDITION}, ${greeting}`}</p>;
}
