const EDITION = "first edition";

export const loader = () => ({ greeting: process.env.GREETING });

export default function Home({ loaderData }) {
  return <p>{`${EDITION}, ${loaderData.greeting}`}</p>;
}
